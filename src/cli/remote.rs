//! Remote: one server, reached over ssh or, for a rehearsal, on this machine; speaks `proto::control`.
