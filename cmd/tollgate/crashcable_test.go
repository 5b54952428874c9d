package main

import (
	"errors"
	"io"
	"net"
	"sync"
)

// cable is a TCP connection to a server that can be cut: at once, as when the process at its end is killed, or in the middle
// of a request.
type cable struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	open  map[net.Conn]bool
	left  int // bytes that still pass to the server before all is cut; -1 = no bound
	ended bool
}

// newCable listens on loopback and passes everything on to an address.
func newCable(to string) (*cable, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &cable{listener: listener, to: to, open: map[net.Conn]bool{}, left: -1}
	go w.accept()
	return w, nil
}

func (w *cable) address() string { return w.listener.Addr().String() }

func (w *cable) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return // cut for good
		}
		server, err := net.Dial("tcp", w.to)
		if err != nil {
			client.Close()
			continue
		}
		if !w.keep(client, server) {
			return
		}
		go w.pass(server, client)
		go func() {
			io.Copy(client, server) //nolint:errcheck // ends with either side
			client.Close()
		}()
	}
}

func (w *cable) keep(both ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range both {
		w.open[c] = true
		if w.ended {
			c.Close()
		}
	}
	return !w.ended
}

// pass copies what the client sends, as far as is left.
func (w *cable) pass(server, client net.Conn) {
	defer server.Close()
	block := make([]byte, 64<<10)
	for {
		n, err := client.Read(block)
		w.mu.Lock()
		cut := w.left >= 0 && n >= w.left
		if cut {
			n = w.left
		}
		if w.left > 0 {
			w.left -= n
		}
		w.mu.Unlock()
		if _, wrong := server.Write(block[:n]); wrong != nil || err != nil {
			return
		}
		if cut {
			w.cut()
		}
	}
}

// after lets so many bytes more through and then cuts all connections; new ones may be made.
func (w *cable) after(bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = bytes
}

// mend lets everything through again.
func (w *cable) mend() { w.after(-1) }

// cut ends all connections.
func (w *cable) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		c.Close()
	}
	clear(w.open)
}

// end cuts everything and lets nothing through any more.
func (w *cable) end() error {
	err := w.listener.Close()
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.cut()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
