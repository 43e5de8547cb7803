"""Compiles a seccomp profile with libseccomp, as runc does.

stdin: a LinuxSeccomp of the OCI runtime spec as JSON; stdout: JSON with the
program (hex of struct sock_filter) and the names that libseccomp does not know.
"""
import ctypes, ctypes.util, json, os, sys, tempfile

lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
lib.seccomp_init.restype = ctypes.c_void_p


class Cmp(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


ARCH = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0x4000003E,
        "SCMP_ARCH_AARCH64": 0xC00000B7, "SCMP_ARCH_ARM": 0x40000028}
OP = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
      "SCMP_CMP_MASKED_EQ": 7}


def action(name, errno):
    return {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000 | (1 if errno is None else errno)}[name]


p = json.load(sys.stdin)
default = action(p["defaultAction"], p.get("defaultErrnoRet"))
ctx = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
for a in p["architectures"]:
    lib.seccomp_arch_add(ctx, ctypes.c_uint32(ARCH[a]))
if "SCMP_ARCH_X86_64" not in p["architectures"]:
    lib.seccomp_arch_remove(ctx, ctypes.c_uint32(ARCH["SCMP_ARCH_X86_64"]))
unknown = set()
for rule in p["syscalls"]:
    act = action(rule["action"], rule.get("errnoRet"))
    if act == default:
        continue
    args = rule.get("args") or []
    cmps = (Cmp * max(len(args), 1))(*[Cmp(x["index"], OP[x["op"]], x["value"], x.get("valueTwo", 0)) for x in args])
    for name in rule["names"]:
        nr = lib.seccomp_syscall_resolve_name(name.encode())
        if nr == -1:
            unknown.add(name)
            continue
        rc = lib.seccomp_rule_add_array(ctx, ctypes.c_uint32(act), nr, len(args), cmps)
        if rc != 0:
            sys.exit("%s: %d" % (name, rc))
with tempfile.TemporaryFile() as f:
    if lib.seccomp_export_bpf(ctx, f.fileno()) != 0:
        sys.exit("export")
    f.seek(0)
    json.dump({"program": f.read().hex(), "unknown": sorted(unknown)}, sys.stdout, indent=1)
