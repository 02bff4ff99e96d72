//! Steps that are known to come out otherwise than with runc.

/// Test, step and cause. README's Docker page lists them.
pub const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("docker/run", "sysctl", "kernel.msgmax cannot be changed by linux.sysctl yet: refused"),
    (
        "docker/run",
        "masked",
        "the sentry's /proc does not have these files, so that there is nothing to mask",
    ),
    (
        "docker/life",
        "attach",
        "in one run of 28 nothing came back from the container; why is not known",
    ),
];

/// Why a step differs, where that is known.
pub fn cause(test: &str, step: &str) -> Option<&'static str> {
    DIFFERENCES
        .iter()
        .find(|(known, name, _)| *known == test && *name == step)
        .map(|(.., cause)| *cause)
}
