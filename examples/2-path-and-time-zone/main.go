// my-server tells the time in the time zone of its image.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		now := time.Now()
		zone, _ := now.Zone()
		fmt.Fprintf(w, "It is %s in %s.\n", now.Format("15:04"), zone)
	})

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()

	log.Fatal(http.ListenAndServe(":80", nil))
}
