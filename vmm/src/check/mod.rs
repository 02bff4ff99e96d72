//! What this machine can do: `ringwall check`, and the choice of `--platform=auto`.
