//! Keys from the files that other programs for S3 read too: `~/.aws/credentials` and `~/.aws/config`.

use ini::{Ini, Properties};
use snapsync_model::{Error, Result};
use std::env;
use std::path::PathBuf;

/// What a profile says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) key: Option<(String, String)>,
    pub(crate) token: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
}

/// The profile that `AWS_PROFILE` names, or the one called `default`.
pub(crate) fn profile() -> Result<Profile> {
    let asked = env::var("AWS_PROFILE").ok().filter(|name| !name.is_empty());
    let name = asked.as_deref().unwrap_or("default");
    let home = env::var_os("HOME").map(PathBuf::from);
    let file = |variable: &str, own: &str| {
        let named = env::var_os(variable).map(PathBuf::from);
        named.or_else(|| Some(home.as_ref()?.join(".aws").join(own)))
    };
    let keys = section(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &[name.to_owned()])?;
    let other = [format!("profile {name}"), name.to_owned()];
    let more = section(file("AWS_CONFIG_FILE", "config"), &other)?;
    if let (Some(name), None, None) = (&asked, &keys, &more) {
        return Err(Error::usage(
            format!("there is no profile {name:?} with credentials"),
            "check AWS_PROFILE, and the files ~/.aws/credentials and ~/.aws/config",
        ));
    }
    Ok(Profile::of(&keys.unwrap_or_default(), &more.unwrap_or_default()))
}

impl Profile {
    fn of(keys: &Properties, more: &Properties) -> Profile {
        let get = |name: &str| {
            let value = keys.get(name).or_else(|| more.get(name));
            value.map(str::to_owned).filter(|value| !value.is_empty())
        };
        Profile {
            key: get("aws_access_key_id").zip(get("aws_secret_access_key")),
            token: get("aws_session_token"),
            region: get("region"),
            endpoint: get("endpoint_url"),
        }
    }
}

/// The first of some sections that a file has; a file that is not there has none.
fn section(file: Option<PathBuf>, names: &[String]) -> Result<Option<Properties>> {
    let Some(file) = file.filter(|file| file.exists()) else { return Ok(None) };
    let read = Ini::load_from_file(&file).map_err(|_| {
        // What it says may be a secret.
        Error::usage(
            format!("cannot read the profiles in {}", file.display()),
            "it has lines of `name = value` after `[profile]`, and whoever runs snapsync may read it",
        )
    })?;
    Ok(names.iter().find_map(|name| read.section(Some(name.as_str()))).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_put_together_from_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, more) = (dir.path().join("credentials"), dir.path().join("config"));
        std::fs::write(&keys, "[default]\naws_access_key_id = k\naws_secret_access_key=s/+=\n[b]\n").unwrap();
        std::fs::write(&more, "[profile b]\nregion=r\nendpoint_url = http://127.0.0.1:1\n").unwrap();
        let of = |file: &PathBuf, name: &str| section(Some(file.clone()), &[name.to_owned()]).unwrap();
        let one = Profile::of(&of(&keys, "default").unwrap(), &Properties::default());
        assert_eq!(one.key, Some(("k".to_owned(), "s/+=".to_owned())));
        let other = Profile::of(&of(&keys, "b").unwrap(), &of(&more, "profile b").unwrap());
        assert_eq!((other.key, other.region.as_deref()), (None, Some("r")));
        assert_eq!(other.endpoint.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(section(Some(dir.path().join("none")), &[]).unwrap(), None);
    }
}
