package transfer_test

import (
	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
)

func goodBuild() lifecycle.Build {
	return lifecycle.Build{ID: lifecycle.BuildID(ulid.Make().String()), Name: "after", Spec: []byte(`{"steps":[]}`)}
}
