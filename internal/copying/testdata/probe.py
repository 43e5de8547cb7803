#!/usr/bin/env python3
"""Ask a running buildkitd what each case of cases.txt gives, and write it down.

usage: probe.py ADDRESS [NAME...]      for example unix:///run/buildkit/buildkitd.sock

Needs buildctl in $PATH and root, because sources have owners. Each case is one
build: "to" entries become a base image, "from" entries an image, a build
context or an archive, all of them handed over as OCI layouts and folders. The
lines with "=" (an entry of the layer) and "!" (an error) are rewritten with
the answer; lines with "~" say what whittle does instead and why, and stay as
they are. With NAMEs only cases whose name has one of them are asked. Nothing
is pulled.
"""
import hashlib, io, json, os, re, subprocess, sys, tarfile, tempfile

CASES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases.txt")
OLD = 1_000_000_000  # times above it are "now"
KINDS = {"d": tarfile.DIRTYPE, "f": tarfile.REGTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE,
         "p": tarfile.FIFOTYPE, "c": tarfile.CHRTYPE, "b": tarfile.BLKTYPE}
NAMES = {v: k for k, v in KINDS.items()}
VERBS = ("STAGE", "CONTEXT", "ARCHIVE", "WORKDIR", "FILE")


def entry(line):
    """kind mode uid:gid @mtime path ["content" | -> target | major,minor] [xattr name=hex]"""
    line, _, xattr = line.partition(" xattr ")
    kind, mode, owner, mtime, path, *rest = line.split(" ", 5)
    t = tarfile.TarInfo(path)
    t.type, t.mode, t.mtime = KINDS[kind], int(mode, 8), int(mtime[1:])
    t.uid, t.gid = map(int, owner.split(":"))
    data = b""
    if kind == "f" and rest:
        data = json.loads(rest[0]).encode()
    if kind in "lh":
        t.linkname = rest[0].removeprefix("-> ")
    if kind in "cb":
        t.devmajor, t.devminor = map(int, rest[0].split(","))
    if xattr:
        name, value = xattr.split("=")
        t.pax_headers = {"SCHILY.xattr." + name: bytes.fromhex(value).decode("utf-8", "surrogateescape")}
    t.size = len(data)
    return t, data


def tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as w:
        for t, data in [entry(e) for e in entries]:
            w.addfile(t, io.BytesIO(data))
    return out.getvalue()


class Layouts:
    """An OCI layout whose images buildkitd reads from the client."""

    def __init__(self, path):
        self.path = path
        os.makedirs(path + "/blobs/sha256")
        with open(path + "/oci-layout", "w") as f:
            f.write('{"imageLayoutVersion":"1.0.0"}')
        self.index = []

    def blob(self, data, kind):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{digest}", "wb") as f:
            f.write(data)
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    def image(self, entries):
        layer = self.blob(tar(["d 0755 0:0 @1 ./"] + entries), "application/vnd.oci.image.layer.v1.tar")
        config = self.blob(json.dumps({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }).encode(), "application/vnd.oci.image.config.v1+json")
        m = self.blob(json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": [layer],
        }).encode(), "application/vnd.oci.image.manifest.v1+json")
        self.index.append(m)
        with open(self.path + "/index.json", "w") as f:
            json.dump({"schemaVersion": 2, "manifests": self.index}, f)
        return m["digest"]


def folder(path, entries):
    os.makedirs(path)
    with tarfile.open(fileobj=io.BytesIO(tar(entries))) as t:
        t.extractall(path, numeric_owner=True, filter="fully_trusted")
    for e in entries:
        t, _ = entry(e)
        p = os.path.join(path, t.name)
        for k, v in t.pax_headers.items():
            os.setxattr(p, k.removeprefix("SCHILY.xattr."), v.encode("utf-8", "surrogateescape"), follow_symlinks=False)
    for e in reversed(entries):
        t, _ = entry(e)
        os.utime(os.path.join(path, t.name), (t.mtime, t.mtime), follow_symlinks=False)


def build(address, tmp, opts, context):
    dest = tmp + "/out.tar"
    r = subprocess.run(
        ["buildctl", "--addr", address, "build", "--frontend", "dockerfile.v0", "--no-cache", "--progress", "plain",
         "--local", "context=" + context, "--local", "dockerfile=" + tmp + "/df",
         "--oci-layout", "store=" + tmp + "/store", "--output", "type=oci,compression=uncompressed,force-compression=true,dest=" + dest] + opts,
        capture_output=True, text=True)
    if r.returncode == 0:
        return dest, None
    err = r.stderr.split("error: failed to solve: ")[-1].split("\n------")[0].strip()
    return None, err.replace("\n", " ")


def layers(dest):
    image = tarfile.open(dest)
    get = lambda d: image.extractfile("blobs/sha256/" + d["digest"].split(":")[1])
    index = json.load(image.extractfile("index.json"))
    manifest = json.load(get(index["manifests"][0]))
    config = json.load(get(manifest["config"]))
    return [tarfile.open(fileobj=io.BytesIO(get(l).read())) for l in manifest["layers"] or []], config


def show(layer, t):
    when = "@now" if t.mtime > OLD else f"@{int(t.mtime)}"
    mode = t.mode & 0o7777 if t.type != tarfile.LNKTYPE else 0
    s = f"{NAMES[t.type]} {mode:04o} {t.uid}:{t.gid} {when} {t.name.strip('/')}"
    if t.type == tarfile.REGTYPE and t.size:
        s += " " + json.dumps(layer.extractfile(t).read().decode())
    if t.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        s += " -> " + t.linkname
    if t.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        s += f" {t.devmajor},{t.devminor}"
    for k, v in sorted(t.pax_headers.items()):
        if k.startswith("SCHILY.xattr."):
            s += f" xattr {k[13:]}={v.encode('utf-8', 'surrogateescape').hex()}"
    return s


def probe(address, lines):
    of = lambda word: [l[len(word) + 1:] for l in lines if l.startswith(word + " ")]
    run = next(l for l in lines if l.split(" ")[0] in VERBS)
    verb, _, rest = run.partition(" ")
    with tempfile.TemporaryDirectory(prefix="probe") as tmp:
        store = Layouts(tmp + "/store")
        opts = ["--opt", "context:to=oci-layout://store@" + store.image(of("to"))]
        context = tmp + "/ctx"
        text = "FROM to\n"
        if verb == "STAGE":
            opts += ["--opt", "context:from=oci-layout://store@" + store.image(of("from"))]
            text += f"COPY --from=from {rest}\n"
            folder(context, [])
        elif verb in ("CONTEXT", "FILE"):
            text += f"{'COPY' if verb == 'CONTEXT' else 'ADD'} {rest}\n"
            folder(context, of("from"))
        elif verb == "WORKDIR":
            user, path = rest.split(" ")
            text += f"USER {user}\nWORKDIR {path}\n"
            folder(context, [])
        else:
            *flags, dest = rest.split(" ")
            text += "ADD " + " ".join(flags + ["archive.tar", dest]) + "\n"
            folder(context, [])
            with open(context + "/archive.tar", "wb") as f:
                f.write(tar(of("from")))
        os.makedirs(tmp + "/df")
        with open(tmp + "/df/Dockerfile", "w") as f:
            f.write(text)
        dest, err = build(address, tmp, opts, context)
        if err:
            err = re.sub(r"/\S*/(rootfs|merged|buildkit-?(mount)?\d+|snapshots/\d+/fs)(?=/|$|:)", "", err)
            return ["! " + re.sub(r"ref [a-z0-9]{25}::[a-z0-9]{25}|ref [a-z0-9]{25}", "ref X", err)]
        got, config = layers(dest)
    out = []
    if "HISTORY" in os.environ:
        out = ["# " + h["created_by"] for h in config["history"][-1:]]
    if len(got) < 2:
        return out
    return out + ["= " + show(got[-1], t) for t in got[-1] if not t.name.endswith(".wh..wh..opq") and t.name.strip("./")]


def main():
    address, names = sys.argv[1], sys.argv[2:]
    out = []
    for case in open(CASES).read().split("\n\n"):
        lines = case.strip().splitlines()
        if not lines or lines[0].startswith("#") or names and not any(n in lines[0] for n in names):
            out.append("\n".join(lines))
            continue
        ours = [l for l in lines if l.startswith("~")]
        lines = [l for l in lines if l[:2] not in ("= ", "! ") and not l.startswith("~")]
        out.append("\n".join(lines + probe(address, lines) + ours))
    with open(CASES, "w") as f:
        f.write("\n\n".join(out) + "\n")


if __name__ == "__main__":
    main()
