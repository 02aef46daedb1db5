//! The file of profiles: the servers that somebody works with, by name, each with its API key.
//!
//! It is `$XDG_CONFIG_HOME/hookgate/profiles.toml`, or `~/.config/hookgate/profiles.toml`, unless
//! `HOOKGATE_PROFILES_FILE` names another one. It is replaced as a whole, and its owner alone can read it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::CliError;
use super::environment::variable_text;
use super::output::note;

/// Characters of a name at most.
const NAME_CHARS_MAX: usize = 64;

/// All profiles.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Profiles {
    /// The one that counts where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) profiles: BTreeMap<String, Profile>,
}

/// A server, and the key to call it with. Not `Debug`: it may hold a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    /// The server's base URL.
    pub(super) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_key: Option<String>,
    /// A file whose first line is the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_key_file: Option<PathBuf>,
}

/// A profile that was chosen, with its name.
pub(super) struct ChosenProfile {
    pub(super) name: String,
    pub(super) url: Url,
    profile: Profile,
}

impl Profiles {
    /// Reads the file; without one there are no profiles.
    pub(super) fn read() -> Result<Self, CliError> {
        match file() {
            Some(file) => Self::read_from(&file),
            None => Ok(Self::default()),
        }
    }

    fn read_from(file: &Path) -> Result<Self, CliError> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(format!("cannot read {}: {error}", file.display()).into()),
        };
        warn_if_others_read(file);
        // The message would show the line, which may hold a key.
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let line = line.map_or(String::new(), |line| format!(", line {line}"));
            format!("{}{line}: {}", file.display(), error.message()).into()
        })
    }

    /// Replaces the file.
    pub(super) fn write(&self) -> Result<(), CliError> {
        let file = file().ok_or("HOME is not set: name a file by HOOKGATE_PROFILES_FILE")?;
        self.write_to(&file)
            .map_err(|error| format!("cannot write {}: {error}", file.display()).into())
    }

    fn write_to(&self, file: &Path) -> io::Result<()> {
        // A link stays one.
        let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let next = file.with_extension("toml.new");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut written = options.open(&next)?;
        written.write_all(text.as_bytes())?;
        written.sync_all()?;
        fs::rename(&next, &file)
    }

    /// The profile with this name, or else the one that `HOOKGATE_PROFILE` names, or that is in use.
    pub(super) fn chosen(named: Option<&str>) -> Result<Option<ChosenProfile>, CliError> {
        let named = named.map(str::to_owned).or_else(|| variable_text("HOOKGATE_PROFILE"));
        let mut all = Self::read()?;
        let Some(name) = named.or_else(|| all.current.take()) else { return Ok(None) };
        let Some(profile) = all.profiles.remove(&name) else { return Err(all.unknown(&name)) };
        let url = base_url(&profile.url).map_err(|rule| format!("profile {name}: url {rule}"))?;
        Ok(Some(ChosenProfile { name, url, profile }))
    }

    /// There is no profile with this name.
    pub(super) fn unknown(&self, name: &str) -> CliError {
        let known: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!("there is no profile {name:?}; there is: {known}").into()
    }
}

impl ChosenProfile {
    /// Its API key, if it has one.
    pub(super) fn key(self) -> Result<Option<String>, CliError> {
        let Profile { api_key, api_key_file, .. } = self.profile;
        let Some(file) = api_key_file else { return Ok(api_key) };
        if api_key.is_some() {
            return Err(format!("profile {} has api_key and api_key_file", self.name).into());
        }
        let text = fs::read_to_string(&file);
        let text = text.map_err(|error| {
            format!("profile {}: cannot read {}: {error}", self.name, file.display())
        })?;
        warn_if_others_read(&file);
        Ok(text.lines().next().map(|line| line.trim().to_owned()))
    }
}

/// A server's base URL.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "must be an http or https URL".to_owned())
}

/// The name of a profile.
pub(super) fn profile_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.chars().all(fits) {
        return Err(format!(
            "must be 1 to {NAME_CHARS_MAX} letters, digits, hyphens, underscores or dots"
        ));
    }
    Ok(text.to_owned())
}

/// Where profiles are; `None` when there is no home directory.
fn file() -> Option<PathBuf> {
    if let Some(file) = variable_text("HOOKGATE_PROFILES_FILE") {
        return Some(file.into());
    }
    let home = || Some(PathBuf::from(variable_text("HOME")?).join(".config"));
    let configuration = variable_text("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?;
    Some(configuration.join("hookgate/profiles.toml"))
}

/// Warns of a file with a key that other users of the machine can read.
fn warn_if_others_read(file: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(file).map(|metadata| metadata.permissions().mode() & 0o777);
        if let Ok(mode) = mode
            && mode & 0o077 != 0
        {
            let file = file.display();
            note(&format!(
                "warning: {file} has mode {mode:04o}, and others may read its key: chmod 600 {file}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_as_it_was_written_and_its_owner_alone_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("new/profiles.toml");
        assert!(Profiles::read_from(&file).unwrap().profiles.is_empty());
        let url = "https://events.example.com/".to_owned();
        let profile =
            Profile { url: url.clone(), api_key: Some("hg_s3cret".into()), api_key_file: None };
        let all = Profiles {
            current: Some("a.b".to_owned()),
            profiles: [("a.b".to_owned(), profile)].into(),
        };
        for _ in 0..2 {
            all.write_to(&file).unwrap();
        }
        let read = Profiles::read_from(&file).unwrap();
        assert_eq!((&read.current, &read.profiles["a.b"].url), (&all.current, &url));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(&file, "current = \"a\"\n[profiles.a]\napi_key = hg_s3cret\n").unwrap();
        let error = Profiles::read_from(&file).err().unwrap().to_string();
        assert!(error.contains("line 3") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn names_and_urls_are_checked() {
        for good in ["a", "eu-1", "prod.example_2"] {
            assert_eq!(profile_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "a b", "../a", "ä", &"a".repeat(65)] {
            assert!(profile_name(bad).is_err(), "{bad}");
        }
        assert!(base_url("https://a.example/x").is_ok());
        for bad in ["a.example", "ftp://a.example", ""] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }
}
