package sandbox

import (
	"bytes"
	"encoding/binary"
)

// machine is what programs of an architecture look like (elf(5)), and how QEMU
// calls it.
type machine struct {
	wide    bool // 64 bits
	order   binary.AppendByteOrder
	number  uint16 // e_machine
	flags   uint32 // e_flags of a program without libraries
	emulate string // the last part of the emulator's name
	// probe is exit(argc - 1) as the kernel starts a program: argc lies where
	// the stack pointer points to. As words of 4 bytes, or for the architectures
	// without such as bytes.
	words []uint32
	bytes []byte
}

// machineOf returns the machine that Go calls arch; nil when it is not known.
func machineOf(arch string) *machine {
	little, big := binary.LittleEndian, binary.BigEndian
	m, ok := map[string]machine{
		"386":      {false, little, 3, 0, "i386", nil, []byte("\x8b\x1c\x24\x4b\xb8\x01\x00\x00\x00\xcd\x80")},
		"amd64":    {true, little, 62, 0, "x86_64", nil, []byte("\x8b\x3c\x24\xff\xcf\xb8\x3c\x00\x00\x00\x0f\x05")},
		"arm":      {false, little, 40, 0x5000200, "arm", []uint32{0xe59d0000, 0xe2400001, 0xe3a07001, 0xef000000}, nil},
		"arm64":    {true, little, 183, 0, "aarch64", []uint32{0xf94003e0, 0xd1000400, 0xd2800ba8, 0xd4000001}, nil},
		"riscv64":  {true, little, 243, 0, "riscv64", []uint32{0x00013503, 0xfff50513, 0x05d00893, 0x00000073}, nil},
		"ppc64le":  {true, little, 21, 2, "ppc64le", []uint32{0xe8610000, 0x3863ffff, 0x38000001, 0x44000002}, nil},
		"s390x":    {true, big, 22, 0, "s390x", nil, []byte("\xe3\x20\xf0\x00\x00\x04\xa7\x2b\xff\xff\x0a\x01")},
		"loong64":  {true, little, 258, 0x43, "loongarch64", []uint32{0x28c00064, 0x02fffc84, 0x02c1740b, 0x002b0000}, nil},
		"mips":     {false, big, 8, 0x50001000, "mips", mips32, nil},
		"mipsle":   {false, little, 8, 0x50001000, "mipsel", mips32, nil},
		"mips64":   {true, big, 8, 0x60000000, "mips64", mips64, nil},
		"mips64le": {true, little, 8, 0x60000000, "mips64el", mips64, nil},
	}[arch]
	if !ok {
		return nil
	}
	return &m
}

// Never written to.
var (
	mips32 = []uint32{0x8fa40000, 0x2484ffff, 0x24020fa1, 0x0000000c}
	mips64 = []uint32{0xdfa40000, 0x6484ffff, 0x240213c2, 0x0000000c}
)

// elfHeader is the beginning of a program for arch; nil when it is not known.
func elfHeader(arch string) []byte {
	m := machineOf(arch)
	if m == nil {
		return nil
	}
	h := make([]byte, 16, 20)
	copy(h, "\x7fELF\x01\x01\x01")
	if m.wide {
		h[4] = 2
	}
	if m.order == binary.AppendByteOrder(binary.BigEndian) {
		h[5] = 2
	}
	h = m.order.AppendUint16(h, 2) // ET_EXEC
	return m.order.AppendUint16(h, m.number)
}

// magic is what binfmt_misc has to look for to find m's programs, and the bits
// of it that count: neither the system's ABI, nor whether the program can be
// loaded anywhere.
func (m *machine) magic(header []byte) (magic, mask []byte) {
	mask = bytes.Repeat([]byte{0xff}, len(header))
	mask[7] = 0
	low := 16
	if m.order == binary.AppendByteOrder(binary.BigEndian) {
		low = 17
	}
	mask[low] = 0xfe
	return header, mask
}

// program is a program for arch that does nothing but end, with 0 if it has
// got its name and no argument.
func (m *machine) program(header []byte) []byte {
	const base = 0x400000 // a multiple of every page size there is
	code := m.bytes
	for _, w := range m.words {
		code = m.order.AppendUint32(code, w)
	}
	word := m.order.AppendUint32
	ehsize, phsize := 52, 32
	if m.wide {
		ehsize, phsize = 64, 56
		word = func(b []byte, v uint32) []byte { return m.order.AppendUint64(b, uint64(v)) }
	}
	text := uint32(ehsize + phsize)
	all := text + uint32(len(code))
	b := m.order.AppendUint32(bytes.Clone(header), 1)
	for _, v := range []uint32{base + text, uint32(ehsize), 0} { // e_entry, e_phoff, e_shoff
		b = word(b, v)
	}
	b = m.order.AppendUint32(b, m.flags)
	for _, v := range []int{ehsize, phsize, 1, 0, 0, 0} {
		b = m.order.AppendUint16(b, uint16(v))
	}
	const load, readExec = 1, 5
	b = m.order.AppendUint32(b, load)
	if m.wide {
		b = m.order.AppendUint32(b, readExec)
	}
	for _, v := range []uint32{0, base, base, all, all} { // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz
		b = word(b, v)
	}
	if !m.wide {
		b = m.order.AppendUint32(b, readExec)
	}
	return append(word(b, 0x10000), code...)
}
