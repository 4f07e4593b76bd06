module example.com/wsproxy/interop/dns

go 1.25

require (
	example.com/wsproxy v0.0.0
	github.com/miekg/dns v1.1.68
)

require (
	golang.org/x/mod v0.24.0 // indirect
	golang.org/x/net v0.40.0 // indirect
	golang.org/x/sync v0.14.0 // indirect
	golang.org/x/sys v0.33.0 // indirect
	golang.org/x/tools v0.33.0 // indirect
)

replace example.com/wsproxy => ../../
