use super::Config;
/// x
#[derive(Debug)]
pub struct ConfineError;
/// x
pub fn confine(_: &Config) -> Result<(), ConfineError> {
    Ok(())
}
