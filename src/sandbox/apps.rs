//! The apps that the sandbox knows.

use std::collections::HashMap;

use axum::http::Method;

use super::answer::{Params, Wrong, only};
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

    /// The appid and the login code of a call that exchanges one; the parameter `name` holds it.
    pub(super) fn exchange<'a>(
        &self,
        method: &Method,
        params: &'a Params,
        name: &str,
    ) -> Result<(&'a str, &'a str), Wrong> {
        only(method, &Method::GET)?;
        let appid = self.check(params)?;
        let code = params.get(name, Wrong::NO_CODE)?;
        if params.or_empty("grant_type") != "authorization_code" {
            return Err(Wrong::GRANT_TYPE);
        }
        Ok((appid, code))
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
