/* Connects to a mail server as scripts that bypass Exim do: so many times, at an even rate,
 * from one process or from a process for each connection. A Go program would cost more to
 * start than the watch that is measured.
 *
 *   knock ADDRESS PORT TIMES RATE STAY UID:GID [each]
 *
 * IPv4 only. RATE is connections a second, 0 = as fast as possible; who falls behind makes
 * up for it. A connection is closed STAY milliseconds after it was made. Ends with status 1
 * if one of them failed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <grp.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int knock(const struct sockaddr_in *to, long stay)
{
	struct timespec t = {.tv_sec = stay / 1000, .tv_nsec = stay % 1000 * 1000000};
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return 1;
	int failed = connect(s, (const struct sockaddr *)to, sizeof *to) < 0;
	if (!failed && stay)
		nanosleep(&t, NULL);
	close(s);
	return failed;
}

/* Forgets children that have ended, or all with wait, and tells how many failed. */
static long reap(long *alive, int wait)
{
	long failed = 0;
	int status;
	while (*alive && waitpid(-1, &status, wait ? 0 : WNOHANG) > 0) {
		failed += status != 0;
		--*alive;
	}
	return failed;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	int uid = 0, gid = 0;
	if (argc < 7 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 || sscanf(argv[6], "%d:%d", &uid, &gid) != 2) {
		fprintf(stderr, "usage: knock ADDRESS PORT TIMES RATE STAY UID:GID [each]\n");
		return 2;
	}
	to.sin_port = htons(atoi(argv[2]));
	long times = atol(argv[3]), rate = atol(argv[4]), stay = atol(argv[5]);
	if (getuid() == 0 && uid && (setgroups(0, NULL) || setgid(gid) || setuid(uid))) {
		perror("knock: become the account");
		return 1;
	}
	char *child[] = {argv[0], argv[1], argv[2], "1", "0", argv[5], argv[6], NULL}, *empty[] = {NULL};
	int each = argc > 7 && !strcmp(argv[7], "each");
	long failed = 0, alive = 0;
	struct timespec start;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (long i = 0; i < times; i++) {
		if (rate) {
			int64_t at = start.tv_nsec + i % rate * 1000000000 / rate;
			struct timespec t = {.tv_sec = start.tv_sec + i / rate + at / 1000000000, .tv_nsec = at % 1000000000};
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		}
		if (!each) {
			failed += knock(&to, stay);
			continue;
		}
		pid_t pid;
		if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, child, empty))
			failed++;
		else
			alive++;
		failed += reap(&alive, 0);
	}
	failed += reap(&alive, 1);
	if (failed)
		fprintf(stderr, "knock: %ld of %ld failed\n", failed, times);
	return failed != 0;
}
