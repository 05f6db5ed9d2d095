package api

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// changes are the words of the wire for what a person may want of a slave.
var changes = map[holdfastv1.ChangeSlaveRequest_Change]store.SlaveChange{
	holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN:   store.SlaveDrain,
	holdfastv1.ChangeSlaveRequest_CHANGE_RESUME:  store.SlaveResume,
	holdfastv1.ChangeSlaveRequest_CHANGE_RELEASE: store.SlaveRelease,
	holdfastv1.ChangeSlaveRequest_CHANGE_DEAD:    store.SlaveDead,
	holdfastv1.ChangeSlaveRequest_CHANGE_RESET:   store.SlaveReset,
}

// ChangeSlave carries out what a person wants of a slave.
func (s *Server) ChangeSlave(ctx context.Context, req *holdfastv1.ChangeSlaveRequest) (*holdfastv1.ChangeSlaveResponse, error) {
	change, known := changes[req.GetChange()]
	if !known {
		return nil, rpcerr.New(rpcerr.Invalid, "this master knows no such change of a slave; it may be older than you are")
	}
	who, err := whoAndWhy(req.GetWho(), req.GetReason())
	if err := first(err, checkName("slave", req.GetSlave())); err != nil {
		return nil, err
	}
	rows, err := s.store.Slaves(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	at := slices.IndexFunc(rows, func(row store.Slave) bool { return row.HoldsName && row.Name == req.GetSlave() })
	if at < 0 {
		return nil, rpcerr.New(rpcerr.NotFound, "no slave is called %q; `holdfast slaves` lists them", req.GetSlave())
	}
	op := &store.ChangeSlave{
		Now: time.Now(), Change: change, Who: who, Why: req.GetReason(), Jitter: rand.Float64(),
		Session: store.Session{Instance: rows[at].Instance},
	}
	op.Session.Epoch = lifecycle.Epoch(req.GetEpoch())
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	return &holdfastv1.ChangeSlaveResponse{Changed: op.Changed, AttemptsEnded: uint32(op.Ended)}, nil
}

// ReleaseBrake lets attempts be given up although most slaves are silent.
func (s *Server) ReleaseBrake(ctx context.Context, req *holdfastv1.ReleaseBrakeRequest) (*holdfastv1.ReleaseBrakeResponse, error) {
	who, err := whoAndWhy(req.GetWho(), req.GetReason())
	if err != nil {
		return nil, err
	}
	changed, err := s.cfg.ReleaseBrake(ctx, who, req.GetReason())
	if err != nil {
		return nil, refusal(err)
	}
	return &holdfastv1.ReleaseBrakeResponse{Changed: changed}, nil
}

// whoAndWhy checks who wants something of the farm, and that there is a reason.
func whoAndWhy(who, why string) (string, error) {
	if who == "" {
		who = "somebody" // it ends up in sentences
	}
	var missing error
	if strings.TrimSpace(why) == "" {
		missing = rpcerr.New(rpcerr.Invalid, "the reason is missing: it goes into the history, with your name")
	}
	return who, first(checkName("who", who), checkText("reason", why, maxText), missing)
}
