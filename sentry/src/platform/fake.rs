//! A platform without a machine, for unit tests on the host.
