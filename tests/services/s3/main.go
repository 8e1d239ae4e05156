// An S3 server for tests: versitygw's API over a directory, one account, nothing else of it, so that it builds quickly.
//
//	s3 ADDRESS DIRECTORY METADATA   credentials: ROOT_ACCESS_KEY, ROOT_SECRET_KEY; region us-east-1; buckets are folders of DIRECTORY
//
// It checks signatures and payload digests, and knows conditional writes and multipart uploads.
package main

import (
	"log"
	"os"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: s3 ADDRESS DIRECTORY METADATA")
	}
	access, secret := os.Getenv("ROOT_ACCESS_KEY"), os.Getenv("ROOT_SECRET_KEY")
	metadata, err := meta.NewSideCar(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	backend, err := posix.New(os.Args[2], metadata, posix.PosixOpts{SideCarDir: os.Args[3], CopyObjectThreshold: 5 << 30})
	if err != nil {
		log.Fatal(err)
	}
	iam := auth.NewIAMServiceSingle(auth.Account{Access: access, Secret: secret, Role: auth.RoleAdmin})
	server, err := s3api.New(backend, middlewares.RootUserConfig{Access: access, Secret: secret}, "us-east-1", iam, nil, nil,
		nil, nil, s3api.WithKeepAlive(), s3api.WithQuiet(), s3api.WithConcurrencyLimiter(1024, 512), s3api.WithMpMaxParts(10000))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.ServeMultiPort([]string{os.Args[1]}))
}
