//! Stories: the built binary against the sandbox.
