//! The system `ssh` and `sftp`: one connection per server that is master and control channel at once.
