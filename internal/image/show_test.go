package image

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
)

func TestHumanSizeWritesAsDockerDoes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "1kB", 13256: "13.3kB", 1237000: "1.24MB", 72_800_000: "72.8MB",
		999_600: "1MB", 1 << 62: "4.61EB", math.MaxInt64: "9.22EB", 1_000_000: "1MB", 1_240_000_000: "1.24GB", 123_456_789: "123MB", 1 << 50: "1.13PB",
	} {
		if got := HumanSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestHumanAgeWritesAsDockerDoes(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		-time.Hour: "Less than a second ago", 0: "Less than a second ago", time.Second: "1 second ago", 59 * time.Second: "59 seconds ago",
		time.Minute: "About a minute ago", 5 * time.Minute: "5 minutes ago", 59 * time.Minute: "59 minutes ago", time.Hour: "About an hour ago",
		100 * time.Minute: "2 hours ago", 47 * time.Hour: "47 hours ago", 2 * day: "2 days ago", 13 * day: "13 days ago",
		14 * day: "2 weeks ago", 59 * day: "8 weeks ago", 60 * day: "2 months ago", 729 * day: "24 months ago", 730 * day: "2 years ago",
	} {
		if got := HumanAge(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestTheListLooksLikeDockers(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, strings.Repeat("x", 6656)), "app:1", "registry.example.com/app:1")
	dangling := put(t, c, sample(t, m, moment.Add(time.Hour), "b"))
	list, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	v := View{Now: moment.Add(3 * time.Hour)}
	if err := v.WriteList(&b, list); err != nil {
		t.Fatal(err)
	}
	want := "REPOSITORY                 TAG       IMAGE ID       CREATED       SIZE\n" +
		"<none>                     <none>    " + dangling.ID.Short() + "   2 hours ago   1B\n" +
		"app                        1         " + img.ID.Short() + "   3 hours ago   6.66kB\n" +
		"registry.example.com/app   1         " + img.ID.Short() + "   3 hours ago   6.66kB\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	if err := (View{Quiet: true, NoTrunc: true}).WriteList(&b, list); err != nil {
		t.Fatal(err)
	}
	if want := dangling.ID.String() + "\n" + img.ID.String() + "\n"; b.String() != want {
		t.Errorf("quiet: got %q, want %q", b.String(), want)
	}
}

func TestTheHistoryLooksLikeDockers(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "12345", "123")
	img.Config.History[0].CreatedBy = "RUN /bin/sh -c echo \x1b[31mred && \tmake -C a/very/long/path install # buildkit"
	var b bytes.Buffer
	if err := (View{Now: moment.Add(48 * time.Hour)}).WriteHistory(&b, img); err != nil {
		t.Fatal(err)
	}
	want := "IMAGE          CREATED      CREATED BY                                 SIZE      COMMENT\n" +
		img.ID.Short() + "   2 days ago   CMD [\"/hello\"]                             0B        \n" +
		"<missing>      2 days ago   COPY file1 / # buildkit                    3B        buildkit.dockerfile.v0\n" +
		"<missing>      2 days ago   RUN /bin/sh -c echo red &&  make -C a/v…   5B        buildkit.dockerfile.v0\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestHistoryAccountsForEveryLayer(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "12345", "123")
	for _, h := range [][]config.History{nil, img.Config.History[:1], append(img.Config.History, img.Config.History...)} {
		img.Config.History = h
		var sum int64
		for _, c := range img.History() {
			sum += c.Size
		}
		if sum != img.Size() {
			t.Errorf("%d entries: sizes add up to %d, want %d", len(h), sum, img.Size())
		}
	}
}

func TestInspectHasDockersShape(t *testing.T) {
	c, m := catalog(t)
	img := sample(t, m, moment, "12345")
	img.Manifest, img.Source = digest.Of([]byte("m")), "docker.io/library/app:1"
	put(t, c, img, "app:1", "other:2")
	s, err := c.Summary(img.ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(s.Inspect(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
 "Id": "` + img.ID.String() + `",
 "RepoTags": [
  "app:1",
  "other:2"
 ],
 "RepoDigests": [
  "app@` + img.Manifest.String() + `"
 ],
 "Parent": "",
 "Comment": "",
 "Created": "2024-05-06T07:08:09Z",
 "Author": "nobody",
 "Config": {
  "Env": [
   "PATH=/bin"
  ],
  "Cmd": [
   "/hello"
  ],
  "Labels": {
   "a": "b"
  }
 },
 "Architecture": "amd64",
 "Os": "linux",
 "Size": 5,
 "RootFS": {
  "Type": "layers",
  "Layers": [
   "` + img.Layers[0].DiffID.String() + `"
  ]
 },
 "Metadata": {
  "LastTagTime": "2024-05-06T08:08:09Z"
 }
}`
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}
