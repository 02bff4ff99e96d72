//! What the host counts in a container's groups.
