package packetmon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// ebpfFormat is the description of sock:inet_sock_set_state with a protocol of that many
// bytes, as kernels before 5.5 and since have it.
func ebpfFormat(protocol int) string {
	var b strings.Builder
	b.WriteString("name: inet_sock_set_state\nID: 1471\nformat:\n" +
		"\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n" +
		"\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n" +
		"\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;\n" +
		"\tfield:int oldstate;\toffset:16;\tsize:4;\tsigned:1;\n" +
		"\tfield:int newstate;\toffset:20;\tsize:4;\tsigned:1;\n" +
		"\tfield:__u16 sport;\toffset:24;\tsize:2;\tsigned:0;\n" +
		"\tfield:__u16 dport;\toffset:26;\tsize:2;\tsigned:0;\n" +
		"\tfield:__u16 family;\toffset:28;\tsize:2;\tsigned:0;\n")
	at := 30
	for _, f := range []struct {
		declared string
		size     int
	}{{fmt.Sprintf("__u%d protocol", 8*protocol), protocol}, {"__u8 saddr[4]", 4}, {"__u8 daddr[4]", 4}, {"__u8 saddr_v6[16]", 16}, {"__u8 daddr_v6[16]", 16}} {
		fmt.Fprintf(&b, "\tfield:%s;\toffset:%d;\tsize:%d;\tsigned:0;\n", f.declared, at, f.size)
		at += f.size
	}
	b.WriteString("\nprint fmt: \"family=%s\", __print_symbolic(REC->family, { 2, \"AF_INET\" })\n")
	return b.String()
}

func TestEBPFFindsTheFieldsOfEachKernel(t *testing.T) {
	for _, row := range []struct {
		name string
		text string
		want stateLayout
	}{
		{"protocol of one byte", ebpfFormat(1), stateLayout{socket: 8, oldState: 16, newState: 20, family: 28, protocol: 30, protocolSize: asm.Byte, localPort: 24, remotePort: 26, local: 39, remote: 55}},
		{"protocol of two bytes", ebpfFormat(2), stateLayout{socket: 8, oldState: 16, newState: 20, family: 28, protocol: 30, protocolSize: asm.Half, localPort: 24, remotePort: 26, local: 40, remote: 56}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, err := parseFormat([]byte(row.text))
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.stateLayout()
			if err != nil || got != row.want || f.id != 1471 {
				t.Errorf("number %d, %+v, %v; want 1471 and %+v", f.id, got, err, row.want)
			}
		})
	}
}

func TestEBPFRefusesDescriptionsItCannotUse(t *testing.T) {
	good := ebpfFormat(2)
	for _, row := range []struct{ name, text, want string }{
		{"nothing", "", "no number"},
		{"no number", strings.Replace(good, "ID: 1471", "", 1), "no number"},
		{"a number that is none", strings.Replace(good, "1471", "-1", 1), "is none"},
		{"too long", good + strings.Repeat(" ", maxFormat), "longer than"},
		{"a field is missing", strings.Replace(good, " dport;", " port;", 1), "no field dport"},
		{"a field without a name", strings.Replace(good, " dport;", " [2];", 1) + "field:;", "no name"},
		{"a field without a place", strings.Replace(good, "offset:26", "offset:x", 1), "no place"},
		{"a field beyond any record", strings.Replace(good, "offset:26", "offset:99999999999999999999", 1), "no place"},
		{"a field that is not aligned", strings.Replace(good, "offset:26", "offset:27", 1), "dport of 2 bytes at 27"},
		{"a field in the hidden part", strings.Replace(good, "offset:26", "offset:4", 1), "dport of 2 bytes at 4"},
		{"a socket of a 32-bit kernel", strings.Replace(good, "offset:8;\tsize:8", "offset:8;\tsize:4", 1), "skaddr of 4 bytes"},
		{"an address of another size", strings.Replace(good, "offset:56;\tsize:16", "offset:56;\tsize:4", 1), "no IPv6 address"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, err := parseFormat([]byte(row.text))
			if err == nil {
				_, err = f.stateLayout()
			}
			if !saysEBPF(err, row.want) {
				t.Errorf("error %v, want one with %q", err, row.want)
			}
		})
	}
}

func TestEBPFProgramsSuitEachKernelsRecords(t *testing.T) {
	needEBPF(t)
	for protocol := 1; protocol <= 2; protocol++ {
		e := &EBPF{}
		t.Cleanup(func() { e.Close() })
		if err := e.makeMaps([]uint16{25}); err != nil {
			t.Fatal(err)
		}
		f, err := parseFormat([]byte(ebpfFormat(protocol)))
		if err != nil {
			t.Fatal(err)
		}
		l, err := f.stateLayout()
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range []*ebpf.ProgramSpec{stateProgram(l, e.maps), resetProgram(l.socket, e.maps)} {
			p, err := ebpf.NewProgram(spec)
			if err != nil {
				t.Fatalf("protocol of %d bytes: the kernel refuses %s: %+v", protocol, spec.Name, err)
			}
			p.Close()
		}
	}
}

func TestEBPFSaysWhatIsMissing(t *testing.T) {
	empty, mounted := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(mounted, "events"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findTracefs([]string{empty, mounted}); err != nil || got != mounted {
		t.Errorf("found %q, %v; want %q", got, err, mounted)
	}
	if _, err := findTracefs([]string{empty, filepath.Join(empty, "none")}); !saysEBPF(err, "mount -t tracefs") {
		t.Errorf("nowhere mounted: %v, want the command that mounts it", err)
	}
	_, err := OpenEBPF(EBPFOptions{Ports: []uint16{25}, Boot: ebpfBoot, tracefs: mounted})
	if want := "ebpf: this kernel has no tracepoint sock:inet_sock_set_state (Linux has it since 4.16)"; err == nil || err.Error() != want {
		t.Errorf("an old kernel: %v, want %q", err, want)
	}
	if _, err := OpenEBPF(EBPFOptions{Boot: ebpfBoot, tracefs: mounted}); !saysEBPF(err, "no port") {
		t.Errorf("no ports: %v", err)
	}
}

// FuzzEBPFFormat: whatever a description says, what is taken from it is inside the records
// and aligned, and the description of just that is read as the same.
func FuzzEBPFFormat(f *testing.F) {
	f.Add([]byte(ebpfFormat(1)))
	f.Add([]byte(ebpfFormat(2)))
	f.Add([]byte("ID:1\nfield:;offset:1;size:1;"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseFormat(text)
		if err != nil {
			return
		}
		var b strings.Builder
		fmt.Fprintf(&b, "ID: %d\n", got.id)
		for name, at := range got.fields {
			if at.offset < 0 || at.size < 0 || at.offset+at.size > maxRecord {
				t.Errorf("field %q at %+v", name, at)
			}
			fmt.Fprintf(&b, "field:int %s;offset:%d;size:%d;\n", name, at.offset, at.size)
		}
		again, err := parseFormat([]byte(b.String()))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
			t.Errorf("%+v written and read is %+v, %v", got, again, err)
		}
		l, err := got.stateLayout()
		if err != nil {
			return
		}
		numbers := map[int16]int{l.socket: 8, l.oldState: 4, l.newState: 4, l.family: 2, l.protocol: l.protocolSize.Sizeof(), l.localPort: 2, l.remotePort: 2}
		for at, size := range numbers {
			if at < hidden || int(at)+size > maxRecord {
				t.Errorf("%+v reads %d bytes at %d", l, size, at)
			}
		}
		for _, i := range slices.Concat(copyAddress(stackEvent+eventLocal, l.local), copyAddress(stackEvent+eventRemote, l.remote)) {
			if size := i.OpCode.Size().Sizeof(); int(i.Offset)%size != 0 || int(i.Offset)+size > maxRecord {
				t.Errorf("%+v: instruction %v is not aligned or reads beyond the record", l, i)
			}
		}
	})
}
