// Command pause holds a pod's namespaces open: the sandbox container of every pod on a node built here.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Ignored at the kernel, so that in a shared process namespace orphans need no reaping.
	signal.Ignore(syscall.SIGCHLD)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
