/* A load generator for the policy socket: blocking threads, one new connection per
 * check, half-close after the request, answer read to the end - what Exim's readsocket
 * does. A Go client would cost more than the server under test.
 *
 *   load SOCKET REQUESTS CLIENTS SECONDS RATE UID:GID
 *
 * REQUESTS holds records of a 4-byte little-endian length and that many bytes; each
 * thread takes them in turn from a place of its own. RATE 0 = as fast as possible
 * (closed loop), else Poisson arrivals per second over all threads (open loop; latency
 * from the actual start). Prints one JSON object. Bounded by SECONDS (at most 120).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 256, MAX_SAMPLES = 8000000 };

static const char *socket_path;
static const unsigned char **record;
static uint32_t *record_len;
static size_t records;
static double rate_per_thread;
static uint64_t end_at;

struct worker {
	pthread_t id;
	size_t next;
	uint32_t *ns;
	size_t done, cap, failed, unknown;
	unsigned seed;
};

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static int check(struct worker *w, const unsigned char *req, uint32_t len)
{
	char answer[2048];
	size_t got = 0;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, socket_path, sizeof a.sun_path - 1);
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return -1;
	if (connect(s, (struct sockaddr *)&a, sizeof a) < 0 || write(s, req, len) != (ssize_t)len) {
		close(s);
		return -1;
	}
	shutdown(s, SHUT_WR);
	for (;;) {
		ssize_t n = read(s, answer + got, sizeof answer - 1 - got);
		if (n <= 0)
			break;
		got += n;
	}
	close(s);
	answer[got] = 0;
	if (!strstr(answer, "osm=1"))
		w->unknown++;
	return got ? 0 : -1;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t due = now_ns();
	while (now_ns() < end_at && w->done < w->cap) {
		if (rate_per_thread > 0) {
			double u = (rand_r(&w->seed) + 1.0) / (RAND_MAX + 2.0);
			due += (uint64_t)(-log(u) / rate_per_thread * 1e9);
			uint64_t t = now_ns();
			if (due > t) {
				struct timespec ts = {(due - t) / 1000000000u, (due - t) % 1000000000u};
				nanosleep(&ts, NULL);
			}
		}
		size_t i = w->next++ % records;
		uint64_t t0 = now_ns();
		if (check(w, record[i], record_len[i]) < 0)
			w->failed++;
		uint64_t d = now_ns() - t0;
		w->ns[w->done++] = d > UINT32_MAX ? UINT32_MAX : (uint32_t)d;
	}
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void load_records(const char *path)
{
	struct stat st;
	int f = open(path, O_RDONLY);
	if (f < 0 || fstat(f, &st) < 0) {
		perror(path);
		exit(1);
	}
	unsigned char *p = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, f, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	size_t cap = 0;
	for (off_t at = 0; at + 4 <= st.st_size;) {
		uint32_t n;
		memcpy(&n, p + at, 4);
		at += 4;
		if (at + n > st.st_size)
			break;
		if (records == cap) {
			cap = cap ? cap * 2 : 1024;
			record = realloc(record, cap * sizeof *record);
			record_len = realloc(record_len, cap * sizeof *record_len);
			if (!record || !record_len)
				exit(1);
		}
		record[records] = p + at;
		record_len[records++] = n;
		at += n;
	}
}

int main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "usage: load SOCKET REQUESTS CLIENTS SECONDS RATE UID:GID\n");
		return 2;
	}
	socket_path = argv[1];
	load_records(argv[2]);
	int threads = atoi(argv[3]);
	double seconds = atof(argv[4]), rate = atof(argv[5]);
	int uid = 0, gid = 0;
	sscanf(argv[6], "%d:%d", &uid, &gid);
	if (!records || threads < 1 || threads > MAX_THREADS || seconds <= 0 || seconds > 120) {
		fprintf(stderr, "load: no records, or clients or seconds out of range\n");
		return 2;
	}
	if (uid && (setgroups(0, NULL) || setgid(gid) || setuid(uid))) {
		perror("load: become the client's uid");
		return 1;
	}
	rate_per_thread = rate / threads;
	static struct worker w[MAX_THREADS];
	uint64_t start = now_ns();
	end_at = start + (uint64_t)(seconds * 1e9);
	for (int i = 0; i < threads; i++) {
		w[i].cap = MAX_SAMPLES / threads;
		w[i].ns = malloc(w[i].cap * sizeof *w[i].ns);
		w[i].next = (size_t)i * records / threads;
		w[i].seed = i * 7919 + 17;
		if (!w[i].ns || pthread_create(&w[i].id, NULL, work, &w[i])) {
			fprintf(stderr, "load: cannot start thread %d\n", i);
			return 1;
		}
	}
	size_t done = 0, failed = 0, unknown = 0;
	for (int i = 0; i < threads; i++) {
		pthread_join(w[i].id, NULL);
		done += w[i].done;
		failed += w[i].failed;
		unknown += w[i].unknown;
	}
	double took = (now_ns() - start) / 1e9;
	uint32_t *all = malloc((done + 1) * sizeof *all);
	size_t at = 0;
	for (int i = 0; i < threads; i++) {
		memcpy(all + at, w[i].ns, w[i].done * sizeof *all);
		at += w[i].done;
	}
	qsort(all, done, sizeof *all, by_value);
	printf("{\"checks\":%zu,\"failed\":%zu,\"unknown\":%zu,\"per_second\":%.1f,"
	       "\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f}\n",
	       done, failed, unknown, done / took, done ? all[done / 2] / 1e3 : 0,
	       done ? all[done * 99 / 100] / 1e3 : 0, done ? all[done * 999 / 1000] / 1e3 : 0);
	return 0;
}
