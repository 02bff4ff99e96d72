//! The KVM machine: a guest without firmware, whose kernel is the sentry.
