# What standins/make and standins/load share: sourced, never run.

say() { echo "standins: $*" >&2; }

die() {
	say "$*"
	exit 1
}

# known prints the names of all stand-ins.
known() { awk '!/^#/ && NF { print $1 }' "$here/names"; }

# loadable prints those of them that have an image name.
loadable() { awk '!/^#/ && NF > 1 { print $1 }' "$here/names"; }

# need says which Debian package has command $1 when it is missing.
need() {
	command -v "$1" >/dev/null || die "$1 is missing: apt-get install -y $2"
}

# fingerprint changes when what stand-ins are made from does.
fingerprint() {
	{
		cat "$here"/{make,lib.sh,apk,go-wrapper,debian-packages}
		go_version
		uname -m
	} | sha256sum | cut -c1-16
}

go_version() { go env GOVERSION; }

# Times ahead of the pinned one are meant: see go_cache.
tar_flags=(--format=pax --pax-option=delete=atime,delete=ctime --sort=name
	--owner=0 --group=0 --numeric-owner)

# pack writes tree $1 to tar $2. Nothing of it depends on who runs this.
pack() {
	find "$1" -not -newermt 2090-01-01 -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	tar -C "$1" "${tar_flags[@]}" -cf "$2" .
}

# pack_onto writes tar $3: all of tar $1, and of tree $2 what $1 has not.
pack_onto() {
	find "$2" -not -newermt 2090-01-01 -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	cp "$1" "$3"
	comm -13 <(tar -tf "$1" | sed 's,/$,,' | sort) <(cd "$2" && find . | sort) >"$work/new"
	tar -C "$2" "${tar_flags[@]}" --no-recursion --verbatim-files-from -T "$work/new" -cf "$work/new.tar"
	tar -A -f "$3" "$work/new.tar"
}

change() { printf '%s\n' "$1" >>"$work/out.changes"; }

label() { change "LABEL whittle.stand-in=\"$1\""; }

# fetch_deb downloads Debian package $1 into $work, as apt is set up here.
fetch_deb() {
	(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$1" >&2) ||
		die "$1: apt-get download failed; is 'apt-get update' recent?"
}

# fetch_foreign_deb downloads package $2 for Debian architecture $1 into $work,
# from the same mirrors: the machine's own list of packages stays as it is.
fetch_foreign_deb() {
	local apt=$work/apt
	mkdir -p "$apt"/{lists,cache/archives}/partial
	local as=(-qq -o APT::Architecture="$1" -o APT::Architectures="$1" -o Dir::State::Lists="$apt/lists"
		-o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none)
	(cd "$work" && apt-get "${as[@]}" update >&2 && apt-get "${as[@]}" download "$2" >&2) ||
		die "$2 for $1: apt-get download failed"
}

# version prints "package version" of what fetch_deb brought.
version() { echo "$1 $(dpkg-deb -f "$work/$1"_*.deb Version)"; }

# mirror_lines prints this machine's sources of Debian packages, and no others.
mirror_lines() {
	local lines
	lines=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk -v suite="$suite" '$1 == "Debian" && index($3, suite) == 1 && $4 == "main" && !seen[$0]++ { print "deb", $2, $3, $4 }')
	[[ -n $lines ]] || die "apt knows no Debian $suite mirror: run 'apt-get update' as root first"
	echo "$lines"
}

# proxy_lines prints the proxies that apt uses on this machine. One with a
# password is left out: these lines end up in images.
proxy_lines() {
	apt-config dump Acquire | grep -iE '^Acquire::https?::Proxy "[^"]+";$' | grep -v @ || :
}
