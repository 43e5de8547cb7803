#!/usr/bin/env python3
"""Ask a running dockerd what each case of cases.txt gives, and write it down.

usage: probe.py [SOCKET]      default /var/run/docker.sock

Each case is built with the daemon's BuildKit over its HTTP interface: "to"
entries become a base image, "from" entries an image, a build context or an
archive. The lines with "=" (an entry of the layer) and "!" (an error) are
rewritten with the answer; lines with "~" say what whittle does instead and
why, and stay as they are. Images are named copying-probe and removed at the
end. Nothing is pulled.
"""
import http.client, io, json, os, re, socket, sys, tarfile

CASES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases.txt")
OLD = 1_000_000_000  # times above it are "now"
KINDS = {"d": tarfile.DIRTYPE, "f": tarfile.REGTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE,
         "p": tarfile.FIFOTYPE, "c": tarfile.CHRTYPE, "b": tarfile.BLKTYPE}
NAMES = {v: k for k, v in KINDS.items()}


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def call(sock, method, url, body=None):
    c = Unix(sock)
    c.request(method, url, body, {"Content-Type": "application/x-tar"} if body else {})
    r = c.getresponse()
    data = r.read()
    if r.status >= 300:
        raise SystemExit(f"{method} {url}: {r.status} {data[:300]}")
    return data


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


def tar(entries, extra=()):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as w:
        for t, data in [entry(e) for e in entries] + list(extra):
            w.addfile(t, io.BytesIO(data))
    return out.getvalue()


def plain(name, data):
    t = tarfile.TarInfo(name)
    t.size = len(data)
    return t, data


def load(sock, tag, entries):
    # An image needs one entry, or its layer is dropped.
    body = tar(["d 0755 0:0 @1 ./"] + entries)
    call(sock, "POST", f"/v1.41/images/create?fromSrc=-&repo=copying-probe&tag={tag}", body)


def drop(sock):
    """Remove the images of a case; what is not there needs no removing."""
    for tag in ("out", "to", "from"):
        try:
            call(sock, "DELETE", f"/v1.41/images/copying-probe:{tag}")
        except SystemExit:
            pass


def build(sock, context):
    out = call(sock, "POST", "/v1.41/build?version=2&nocache=1&t=copying-probe:out", context)
    for line in out.splitlines():
        d = json.loads(line)
        if "error" in d:
            return d["error"]
    return None


def layers(sock):
    image = tarfile.open(fileobj=io.BytesIO(call(sock, "GET", "/v1.41/images/copying-probe:out/get")))
    manifest = json.load(image.extractfile("manifest.json"))[0]
    return [tarfile.open(fileobj=image.extractfile(l)) for l in manifest["Layers"]]


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


def probe(sock, lines):
    of = lambda word: [l[len(word) + 1:] for l in lines if l.startswith(word + " ")]
    run = next(l for l in lines if l.split(" ")[0] in ("STAGE", "CONTEXT", "ARCHIVE", "WORKDIR"))
    verb, _, rest = run.partition(" ")
    load(sock, "to", of("to"))
    head = "FROM copying-probe:to\n"
    if verb == "STAGE":
        load(sock, "from", of("from"))
        context = tar([], [plain("Dockerfile", (head + "COPY --from=copying-probe:from " + rest + "\n").encode())])
    elif verb == "CONTEXT":
        df = plain("probe.Dockerfile", (head + "COPY " + rest + "\n").encode())
        context = tar(of("from"), [plain("Dockerfile", df[1])])
    elif verb == "WORKDIR":
        user, path = rest.split(" ")
        context = tar([], [plain("Dockerfile", f"{head}USER {user}\nWORKDIR {path}\n".encode())])
    else:
        *flags, dest = rest.split(" ")
        text = head + "ADD " + " ".join(flags + ["archive.tar", dest]) + "\n"
        context = tar([], [plain("Dockerfile", text.encode()), plain("archive.tar", tar(of("from")))])
    err = build(sock, context)
    if err:
        err = err.split("failed to solve with frontend dockerfile.v0: ")[-1].replace("\n", " ")
        return ["! " + re.sub(r"/\S*/(merged|buildkit-mount\d+)(?=/)", "", err)]
    got = layers(sock)
    if len(got) < 2:
        return []
    return ["= " + show(got[-1], t) for t in got[-1] if not t.name.endswith(".wh..wh..opq")]


def main():
    sock = sys.argv[1] if len(sys.argv) > 1 else "/var/run/docker.sock"
    out = []
    for case in open(CASES).read().split("\n\n"):
        lines = [l for l in case.strip().splitlines() if l[:2] not in ("= ", "! ")]
        if not lines or lines[0].startswith("#"):
            out.append("\n".join(lines))
            continue
        ours = [l for l in lines if l.startswith("~")]
        lines = [l for l in lines if not l.startswith("~")]
        drop(sock)
        out.append("\n".join(lines + probe(sock, lines) + ours))
    drop(sock)
    with open(CASES, "w") as f:
        f.write("\n\n".join(out) + "\n")


if __name__ == "__main__":
    main()
