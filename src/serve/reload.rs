//! A reload: the whole new configuration is built, then one pointer is swapped. What is wrong
//! leaves everything as it was.

use std::path::PathBuf;
use std::sync::Arc;

use super::build::{Built, Lasting};
use super::tls;
use crate::admin::Admin;
use crate::config::{Config, Loaded, Problems, Store};
use crate::proxy::Gateway;

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Loaded, Problems> + Send>;

/// Takes new configurations over.
pub(crate) struct Reloader {
    path: PathBuf,
    reread: Reread,
    lasting: Lasting,
    built: Built,
    gateway: Arc<Gateway>,
    admin: Arc<Admin>,
}

impl Reloader {
    pub(crate) fn new(
        path: PathBuf,
        reread: Reread,
        lasting: Lasting,
        built: Built,
        gateway: Arc<Gateway>,
        admin: Arc<Admin>,
    ) -> Self {
        Self { path, reread, lasting, built, gateway, admin }
    }

    /// Reads, checks, builds, swaps; and says how it went, in the log and in a metric.
    pub(crate) async fn reload(&mut self) {
        // Rotation moves the file away and sends the same signal.
        self.lasting.access_log.reopen();
        let metrics = Arc::clone(&self.lasting.metrics);
        let (result, success) = match self.take_over().await {
            Ok(()) => {
                log::info!("{}: reloaded", self.path.display());
                ("ok", 1)
            }
            Err(problem) => {
                log::error!("{}: not reloaded, the old one stays: {problem}", self.path.display());
                ("error", 0)
            }
        };
        metrics.config_reloads.with_label_values(&[result]).inc();
        metrics.config_last_reload_success.set(success);
    }

    /// Flushes what is still to be written.
    pub(crate) fn close(&self) {
        self.lasting.access_log.close();
    }

    async fn take_over(&mut self) -> Result<(), String> {
        let loaded = (self.reread)().map_err(|problems| problems.to_string())?;
        if !loaded.warnings.is_empty() {
            log::warn!("{}", loaded.warnings);
        }
        for key in needs_restart(&self.built.rules.config, &loaded.config) {
            log::warn!("{key} was changed, which takes effect at a restart");
        }
        let level = loaded.config.log.level;
        let built = Built::from(loaded.config, &self.lasting, Some(&self.built))
            .await
            .map_err(|error| error.to_string())?;
        let config = &built.rules.config;
        let tls = config.server.tls.as_ref().zip(self.lasting.certificates.as_ref());
        let entries = tls.map(|(tls, _)| tls::read_all(tls)).transpose()?;
        let accepting = tls.map(|(tls, shown)| tls::accepting(tls, shown)).transpose()?;
        // The last step that can fail, and it changes nothing if it does.
        self.lasting
            .sessions
            .reload(&config.session, &config.apps)
            .map_err(|error| error.to_string())?;
        if let (Some(shown), Some(entries)) = (&self.lasting.certificates, entries) {
            shown.show(entries);
            // The tickets of the old one are no good then, which nobody notices but clients whose
            // certificate is no longer believed.
            if asks_for_certificates(&self.built.rules.config) || asks_for_certificates(config) {
                self.gateway.tls.store(accepting);
            }
        }
        self.gateway.rules.store(Arc::clone(&built.rules));
        self.admin.view.store(Arc::new(built.view()));
        self.built = built;
        log::set_max_level(level);
        Ok(())
    }
}

/// Whether clients are asked for certificates.
fn asks_for_certificates(config: &Config) -> bool {
    config.server.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
}

/// A store as it may be shown: secrets do not compare, and need not for a hint.
fn shown(store: &Store) -> Option<serde_json::Value> {
    serde_json::to_value(store).ok()
}

/// What a running process cannot change.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("server.listen", old.server.listen != new.server.listen),
        ("server.redirect_listen", old.server.redirect_listen != new.server.redirect_listen),
        ("server.threads", old.server.threads != new.server.threads),
        ("server.tls", old.server.tls.is_some() != new.server.tls.is_some()),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("session.store", shown(&old.session.store) != shown(&new.session.store)),
        ("session.max_sessions", old.session.max_sessions != new.session.max_sessions),
        ("log.access", old.log.access != new.log.access),
        ("log.access_file", old.log.access_file != new.log.access_file),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
