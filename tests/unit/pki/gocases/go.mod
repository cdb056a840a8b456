module serviceidentity.dev/gocases

go 1.26
