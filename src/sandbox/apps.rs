//! The apps that the sandbox knows.

use std::collections::HashMap;

use super::answer::{Params, Wrong};
use crate::secret::Secret;

/// Appids and their secrets.
pub(super) struct Apps(HashMap<String, Secret<String>>);

impl Apps {
    pub(super) fn new(apps: Vec<(String, Secret<String>)>) -> Self {
        Self(apps.into_iter().collect())
    }

    pub(super) fn knows(&self, appid: &str) -> bool {
        self.0.contains_key(appid)
    }

    /// The appid of a call, if its secret is right.
    pub(super) fn check<'a>(&self, params: &'a Params) -> Result<&'a str, Wrong> {
        let appid = params.get("appid", Wrong::NO_APPID)?;
        let secret = params.get("secret", Wrong::NO_SECRET)?;
        self.check_pair(appid, secret)?;
        Ok(appid)
    }

    /// Whether this secret is this app's.
    pub(super) fn check_pair(&self, appid: &str, secret: &str) -> Result<(), Wrong> {
        match self.0.get(appid) {
            None => Err(Wrong::APPID),
            Some(right) if right.is(secret) => Ok(()),
            Some(_) => Err(Wrong::SECRET),
        }
    }
}
