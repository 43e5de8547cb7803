// main says how big the file system is that it finds itself in, and which
// files weigh most; then it waits to be stopped.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"syscall"
)

type file struct {
	path string
	size int64
}

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)

	files, total := measure("/")
	fmt.Printf("%d files, %.1f MB\n", len(files), float64(total)/1e6)
	for _, f := range heaviest(files, 5) {
		fmt.Printf("%8.1f MB  %s\n", float64(f.size)/1e6, f.path)
	}
	if len(os.Args) > 1 && os.Args[1] == "once" {
		return
	}
	<-stop
}

// measure lists the regular files under root; what it may not read, it skips.
func measure(root string) (files []file, total int64) {
	apart := map[string]bool{"/proc": true, "/sys": true, "/dev": true}
	_ = filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return nil
		}
		if apart[path] {
			return filepath.SkipDir
		}
		if info.Mode().IsRegular() {
			files = append(files, file{path, info.Size()})
			total += info.Size()
		}
		return nil
	})
	return files, total
}

func heaviest(files []file, n int) []file {
	sort.Slice(files, func(i, j int) bool { return files[i].size > files[j].size })
	if len(files) < n {
		return files
	}
	return files[:n]
}
