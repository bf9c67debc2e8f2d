//! Rules of `[server.tls]` and of an upstream's `tls`.

use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;

use super::super::certificate::{
    CertificateError, CertificateFile, CertificateFiles, load_certificate, load_chain,
};
use super::super::problem::{Key, quote};
use super::super::{ClientAuth, ClientCertificates, ServerTls, UpstreamTls, file};
use super::{Checker, RELATIVE};

/// `[server.tls]`
pub(super) fn server(file: &file::ServerTls, checker: &mut Checker<'_>) -> Option<ServerTls> {
    let section = Key::of("server").name("tls");
    let first = shown(file.cert.as_deref(), file.key.as_deref(), &section, checker);
    let list = section.name("certificates");
    let further: Vec<_> = file
        .certificates
        .iter()
        .enumerate()
        .filter_map(|(index, one)| {
            let section = list.item(index);
            let files = shown(one.cert.as_deref(), one.key.as_deref(), &section, checker)?;
            let nameless = load_certificate(&files.cert, &files.key)
                .is_ok_and(|certificate| certificate.names.is_empty());
            if nameless {
                let what = "is for no host name, so nobody is ever shown it";
                let hint = "write it as server.tls.cert, or leave it out";
                checker.warn(&section.name("cert"), what, hint);
            }
            Some(files)
        })
        .collect();
    let clients = clients(file, &section, checker);
    let certificates = std::iter::once(first?).chain(further).collect();
    Some(ServerTls { certificates, clients })
}

/// A pair that clients are shown.
fn shown(
    cert: Option<&Path>,
    key: Option<&Path>,
    section: &Key,
    checker: &mut Checker<'_>,
) -> Option<CertificateFiles> {
    let cert = checker.required(&section.name("cert"), cert, "cert = \"fullchain.pem\"");
    let key = checker.required(&section.name("key"), key, "key = \"privkey.pem\"");
    let files =
        CertificateFiles { cert: checker.folder.join(cert?), key: checker.folder.join(key?) };
    pair(&files, section, checker);
    Some(files)
}

/// `client_ca` and `client_auth`
fn clients(
    file: &file::ServerTls,
    section: &Key,
    checker: &mut Checker<'_>,
) -> Option<ClientCertificates> {
    let Some(ca) = &file.client_ca else {
        if file.client_auth.is_some() {
            let hint = "add client_ca = \"clients.pem\"";
            checker.wrong(&section.name("client_auth"), "has no client_ca", hint);
        }
        return None;
    };
    let ca = authorities(ca, &section.name("client_ca"), checker);
    Some(ClientCertificates { ca, auth: file.client_auth.unwrap_or(ClientAuth::Required) })
}

/// A PEM file of authorities that must be there.
fn authorities(written: &Path, key: &Key, checker: &mut Checker<'_>) -> PathBuf {
    let path = checker.folder.join(written);
    match load_chain(&path) {
        Ok(_) => checker.files.push(path.clone()),
        Err(error) => checker.wrong(key, error.to_string(), RELATIVE),
    }
    path
}

/// `tls` of an upstream
pub(super) fn upstream(
    file: file::UpstreamTls,
    section: &Key,
    checker: &mut Checker<'_>,
) -> UpstreamTls {
    if let Some(sni) = &file.sni
        && ServerName::try_from(sni.as_str()).is_err()
    {
        let what = format!("{} is no host name", quote(sni));
        checker.wrong(&section.name("sni"), what, "write the name that the certificate holds");
    }
    if !file.verify {
        let what = "anybody between can read and change everything";
        checker.warn(&section.name("verify"), what, "name the authority with ca = \"ca.pem\"");
        if file.ca.is_some() {
            checker.warn(&section.name("ca"), "is not asked: verify is false", "leave one out");
        }
    }
    let ca = file.ca.map(|ca| authorities(&ca, &section.name("ca"), checker));
    let client = match (file.cert, file.key) {
        (Some(cert), Some(key)) => {
            let files =
                CertificateFiles { cert: checker.folder.join(cert), key: checker.folder.join(key) };
            pair(&files, section, checker);
            Some(files)
        }
        (Some(_), None) => {
            checker.wrong(&section.name("cert"), "has no key", "add key = \"client.key\"");
            None
        }
        (None, Some(_)) => {
            checker.wrong(&section.name("key"), "has no cert", "add cert = \"client.pem\"");
            None
        }
        (None, None) => None,
    };
    UpstreamTls { sni: file.sni, ca, client, verify: file.verify, http2: file.http2 }
}

/// A certificate and key that must be there and belong together, under `cert` and `key` of
/// `section`.
pub(super) fn pair(files: &CertificateFiles, section: &Key, checker: &mut Checker<'_>) {
    match load_certificate(&files.cert, &files.key) {
        Ok(certificate) => {
            checker.files.push(files.cert.clone());
            checker.files.push(files.key.clone());
            let now = crate::clock::system_unix_millis() / 1000;
            if i64::try_from(now).is_ok_and(|now| certificate.expires_at <= now) {
                let hint = "clients refuse it; renew the certificate";
                checker.warn(&section.name("cert"), "has expired", hint);
            }
        }
        Err(error) => {
            let (name, hint) = match (error.file(), &error) {
                (CertificateFile::Cert, CertificateError::Unreadable { .. }) => ("cert", RELATIVE),
                (CertificateFile::Key, CertificateError::Unreadable { .. }) => ("key", RELATIVE),
                (CertificateFile::Cert, _) => ("cert", "begin it with the certificate itself"),
                (CertificateFile::Key, _) => {
                    ("key", "name the key that the certificate was made with")
                }
            };
            checker.wrong(&section.name(name), error.to_string(), hint);
        }
    }
}
