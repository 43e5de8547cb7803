// Package conformance holds whole builds whose outcomes a real peer made:
// buildkitd, of the version in test/peers/go.mod. Whittle builds them with each
// of its root-file-system providers and is compared with what is recorded: the
// lint warnings, the config field by field and byte by byte, the history, what
// each layer names, and the file system above the base.
//
// What a build must give is what the peer gave, never what whittle gave. Each
// difference that we want is one line with its reason in differences.txt; a line
// that no build needs is an error.
//
//	make record                        records the cases that are new or changed
//	make record ARGS='-run "A|B"'      only those whose names match
//	make differential                  compares, and asks the peer again if it can
//	go test ./conformance -run TestCases/case/NAME
//
// make record needs root, runc and Go's module cache or proxy: it builds the
// peer, runs it with all its data in $TMPDIR and gives it base images by a
// registry on the loopback. WHITTLE_PEERS names a folder with buildkitd and
// buildctl that are built already.
//
// # How a case is written
//
// A case is testdata/cases/NAME.txtar; what it gives is recorded in
// testdata/recorded/NAME.json. Its comment says why it is there. Then come lines
// of these forms:
//
//	covers: ID, ID       lines of lines.txt that it shows; every case needs one
//	args: FLAGS          flags of docker build; may be repeated
//	file: NAME           what -f says: a file of the context, or of a remote one,
//	                     or @DIR@/NAME
//	context: VALUE       in place of the folder: -, a URL, a git URL
//	stdin: FILE          standard input: a file of the case, context/f or dir/f
//	env: K=V             the client's environment; may be repeated
//	fails: TEXT          the build fails, with TEXT in what the peer says
//	says: TEXT           in what whittle says, if that is another text
//	xattr: FILE K=V      an extended attribute of a context's file
//
// The archive's files are the context, but for these:
//
//	@DIR@/NAME           lies in a folder beside the context: secrets, layouts,
//	                     named contexts
//	@HTTP@/NAME          is served by HTTP on the loopback, with the file's time as
//	                     Last-Modified and an ETag
//	first.Dockerfile     is built before, as the image conformance-NAME-first
//	setup.sh             is run by sh in the context, to make what an archive of
//	                     text cannot hold; ../dir and ../www are the folders of
//	                     @DIR@ and @HTTP@
//	repo.sh              is run by sh in an empty folder to make git repositories
//	                     there: git init NAME.git is @GIT@/NAME.git. Author, dates
//	                     and branch (main) are fixed, and so are commits
//
// @DIR@, @HTTP@ and @GIT@ in the header and in all files stand for the folder and
// the servers of this run; in what is compared their values are put back.
//
// All files have the time 2001-02-03T04:05:06Z before scripts run, so that a
// time which is kept is told from one which is made ("now"). Cases build on
// busybox, alpine, alpine:3.12, debian (stand-ins, see docs/stand-ins.md) and
// scratch. They must not show what belongs to the base: its listings, versions,
// sizes; nor anything of this machine (kernel, CPUs, clock). Nothing but the
// loopback can be reached. Steps of several cases run side by side: ids of cache
// mounts must be a case's own.
package conformance
