//! What the environment says about the hub: address, cache, token, offline.
//!
//! Reads variables and the token file, nothing else; it decides no policy.
//!
//! ```
//! use tintype::hub::Settings;
//! let home = |name: &str| (name == "HF_HOME").then(|| "/data/hf".to_owned());
//! let settings = Settings::from_variables(home, true);
//! assert_eq!(settings.cache, std::path::Path::new("/data/hf/hub"));
//! ```

use std::path::PathBuf;
use std::time::Duration;

/// Where the hub is, where its files are kept, and how to talk to it.
#[derive(Clone)]
pub struct Settings {
    /// The hub's address without a closing slash.
    pub endpoint: String,
    /// The folder that holds `models--org--name` folders.
    pub cache: PathBuf,
    /// The access token, if there is one.
    pub token: Option<String>,
    /// No network may be used.
    pub offline: bool,
    /// No progress bar and no messages.
    pub quiet: bool,
    /// The pause before the first retry; it doubles with every further one.
    pub retry_wait: Duration,
}

impl Settings {
    /// The settings of this process's environment.
    pub fn from_environment(quiet: bool) -> Self {
        Self::from_variables(|name| std::env::var(name).ok(), quiet)
    }

    /// The settings that the variables returned by `variable` describe. An empty variable
    /// counts as absent.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>, quiet: bool) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let home = variable("HF_HOME").map_or_else(
            || user_cache(&variable).join("huggingface"),
            |home| PathBuf::from(expand(&home, &variable)),
        );
        let cache = variable("HF_HUB_CACHE")
            .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
            .map_or_else(
                || home.join("hub"),
                |cache| PathBuf::from(expand(&cache, &variable)),
            );
        let token_file =
            variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            cache,
            token: variable("HF_TOKEN")
                .or_else(|| std::fs::read_to_string(token_file).ok())
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            quiet,
            retry_wait: Duration::from_millis(500),
        }
    }
}

fn user_cache(variable: &impl Fn(&str) -> Option<String>) -> PathBuf {
    variable("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(variable("HOME").unwrap_or_else(|| ".".to_owned())).join(".cache"),
        PathBuf::from,
    )
}

/// Replaces a leading `~`, as the hub's Python tools do.
fn expand(path: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    match (path.strip_prefix("~/"), variable("HOME")) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ => path.to_owned(),
    }
}

fn is_true(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "yes" | "on"
    )
}

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Settings {
        let find = |name: &str| {
            let pair = pairs.iter().find(|pair| pair.0 == name)?;
            Some(pair.1.to_owned())
        };
        Settings::from_variables(find, true)
    }

    #[test]
    fn defaults_follow_the_home_folder() {
        let settings = from(&[("HOME", "/home/ada")]);
        assert_eq!(
            settings.cache,
            PathBuf::from("/home/ada/.cache/huggingface/hub")
        );
        assert_eq!(settings.endpoint, DEFAULT_ENDPOINT);
        assert!(!settings.offline);
    }

    #[test]
    fn the_more_special_variable_wins() {
        let settings = from(&[
            ("HOME", "/home/ada"),
            ("XDG_CACHE_HOME", "/xdg"),
            ("HF_HOME", "~/models"),
        ]);
        assert_eq!(settings.cache, PathBuf::from("/home/ada/models/hub"));
        let settings = from(&[("HF_HOME", "/models"), ("HF_HUB_CACHE", "/fast")]);
        assert_eq!(settings.cache, PathBuf::from("/fast"));
        let settings = from(&[("XDG_CACHE_HOME", "/xdg")]);
        assert_eq!(settings.cache, PathBuf::from("/xdg/huggingface/hub"));
    }

    #[test]
    fn endpoint_token_and_offline_are_cleaned() {
        let settings = from(&[
            ("HF_ENDPOINT", "http://mirror.example/hub/"),
            ("HF_TOKEN", " secret\n"),
            ("HF_HUB_OFFLINE", "YES"),
        ]);
        assert_eq!(settings.endpoint, "http://mirror.example/hub");
        assert_eq!(settings.token.as_deref(), Some("secret"));
        assert!(settings.offline);
        assert!(!from(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn the_token_file_is_read_when_no_variable_is_set() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let settings = from(&[("HF_HOME", home.path().to_str().unwrap())]);
        assert_eq!(settings.token.as_deref(), Some("from-file"));
    }
}
