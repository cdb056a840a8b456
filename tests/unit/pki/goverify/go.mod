module serviceidentity.dev/goverify

go 1.21
