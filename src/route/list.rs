//! Openid lists: files with one openid a line, read again when they change.
//!
//! `#` begins a comment. An operator bans a user by adding a line; nothing needs a reload.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};

use super::RouteError;

/// How often files are looked at. A change is read on the look after the one that noticed it, at
/// the latest on the one after that, so it is live within three times this and the time to read.
const POLL: Duration = Duration::from_millis(400);

/// Looks for which a file that goes on changing is left alone, so that it is not read while an
/// editor is writing it.
const PATIENCE: u8 = 2;

/// About two million openids. A longer file is refused rather than read into memory.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The openids of one file as it was when last read.
pub struct OpenIds(ArcSwap<HashSet<Box<str>>>);

impl OpenIds {
    /// Whether the file names this openid. Takes no lock.
    pub fn contains(&self, openid: &str) -> bool {
        self.0.load().contains(openid)
    }
}

impl std::fmt::Debug for OpenIds {
    // An openid may stand in no log at any level.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "[{} openids]", self.0.load().len())
    }
}

/// Every list in use. One for the life of the process: a reload opens its lists here again, and
/// those that no route uses any more are forgotten.
#[derive(Debug, Default)]
pub struct Lists(Mutex<Vec<Watched>>);

impl Lists {
    /// No lists.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a list and keeps it fresh from now on, as long as [`Lists::watch`] runs. A file that
    /// is in use already is read again and shared.
    ///
    /// # Errors
    /// [`RouteError`], if the file is missing or holds anything but openids.
    pub fn open(&self, path: &Path) -> Result<Arc<OpenIds>, RouteError> {
        let openids = read(path)?;
        let mut watched = self.lock();
        let mut known = watched.iter().filter(|known| known.path == path);
        if let Some(list) = known.find_map(|known| known.list.upgrade()) {
            list.0.store(Arc::new(openids));
            return Ok(list);
        }
        let list = Arc::new(OpenIds(ArcSwap::from_pointee(openids)));
        watched.push(Watched::new(path, &list));
        Ok(list)
    }

    /// Looks at the files until the process ends. A file that vanished or cannot be read leaves
    /// the last good list in force and is logged once.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let lists = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || lists.look()).await {
                log::error!("openid lists were not looked at: {error}");
            }
        }
    }

    /// Looks at every file once.
    fn look(&self) {
        self.lock().retain_mut(Watched::look);
    }

    // Held while files are read, by the watcher and by a reload; never on the request path.
    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a file looks like from outside: changes whenever its content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Of the inode: moves even where a tool sets the modification time back.
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// What a reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The list in force.
    Good,
    /// Something else than openids.
    Bad,
}

/// One file and what was last seen of it.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    list: Weak<OpenIds>,
    /// The state that was read last. None at first, so that the file is read once more when it
    /// has settled: a write in the same tick of the file system's clock as the first reading
    /// would not show.
    read: Option<(Stamp, Reading)>,
    /// The state at the last look.
    seen: Option<Stamp>,
    /// Looks since it began to change.
    waited: u8,
    /// Whether the operator was told that the last good list is in force.
    is_stale: bool,
}

impl Watched {
    fn new(path: &Path, list: &Arc<OpenIds>) -> Self {
        Self {
            path: path.to_owned(),
            list: Arc::downgrade(list),
            read: None,
            seen: None,
            waited: 0,
            is_stale: false,
        }
    }

    /// Reads the file if it changed and has settled. False once nobody uses the list.
    fn look(&mut self) -> bool {
        let Some(list) = self.list.upgrade() else { return false };
        match std::fs::metadata(&self.path) {
            Ok(file) => self.look_at(Stamp::of(&file), &list),
            Err(source) => {
                self.complain(&RouteError::ListUnreadable { path: self.path.clone(), source });
            }
        }
        true
    }

    fn look_at(&mut self, stamp: Stamp, list: &OpenIds) {
        let is_settled = self.seen.replace(stamp) == Some(stamp);
        if let Some((_, reading)) = self.read.filter(|(read, _)| *read == stamp) {
            self.waited = 0;
            if reading == Reading::Good {
                self.recover();
            }
            return;
        }
        if !is_settled && self.waited < PATIENCE {
            self.waited += 1;
            return;
        }
        self.waited = 0;
        match read(&self.path) {
            Ok(openids) => {
                list.0.store(Arc::new(openids));
                self.read = Some((stamp, Reading::Good));
                self.recover();
            }
            Err(error) => {
                // Who may read it can change without a trace in the stamp (a directory above it),
                // so only what was read and is bad is left alone until it changes.
                if !matches!(error, RouteError::ListUnreadable { .. }) {
                    self.read = Some((stamp, Reading::Bad));
                }
                self.complain(&error);
            }
        }
    }

    fn recover(&mut self) {
        if std::mem::replace(&mut self.is_stale, false) {
            log::info!("openid list `{}` can be read again", self.path.display());
        }
    }

    fn complain(&mut self, error: &RouteError) {
        if !std::mem::replace(&mut self.is_stale, true) {
            log::error!("{error}; the list as last read stays in force");
        }
    }
}

fn read(path: &Path) -> Result<HashSet<Box<str>>, RouteError> {
    let unreadable = |source| RouteError::ListUnreadable { path: path.to_owned(), source };
    // Before it is opened: to open a pipe waits for a writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(RouteError::ListNotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(RouteError::ListTooLarge { path: path.to_owned(), limit: MAX_FILE_BYTES });
    }
    parse(&text).map_err(|line| RouteError::ListLine { path: path.to_owned(), line })
}

/// The openids of a file's text, or the number of the first line that holds something else. Such
/// a line is not passed over: a ban with a slip in it would be no ban.
fn parse(text: &[u8]) -> Result<HashSet<Box<str>>, usize> {
    // Windows editors begin a file so.
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let mut openids = HashSet::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if !line.is_empty() {
            let line = str::from_utf8(line).map_err(|_| number)?;
            if !is_openid(line) {
                return Err(number);
            }
            openids.insert(line.into());
        }
    }
    Ok(openids)
}

/// The shape that every openid has which comes out of a login.
fn is_openid(text: &str) -> bool {
    (6..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::fs::{remove_file, rename, write};
    use std::time::Instant;

    /// A directory with a list in it, open.
    struct Scene {
        directory: tempfile::TempDir,
        lists: Arc<Lists>,
        list: Arc<OpenIds>,
    }

    impl Scene {
        fn with(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path().join("list"), text).unwrap();
            let lists = Arc::new(Lists::new());
            let list = lists.open(&directory.path().join("list")).unwrap();
            Self { directory, lists, list }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("list")
        }

        /// Writes beside the list and moves it there, as careful editors do.
        fn replace(&self, text: &str) {
            let beside = self.directory.path().join("list.new");
            write(&beside, text).unwrap();
            rename(&beside, self.path()).unwrap();
        }

        fn look(&self, times: usize) {
            for _ in 0..times {
                self.lists.look();
            }
        }

        fn is_stale(&self) -> bool {
            self.lists.lock().first().unwrap().is_stale
        }
    }

    #[test]
    fn a_list_is_one_openid_a_line_and_comments() {
        for (text, openids) in [
            ("", &[][..]),
            ("\n\n", &[]),
            ("oAlice\noBob01", &["oAlice", "oBob01"]),
            ("oAlice\r\noBob01\r\n", &["oAlice", "oBob01"]),
            ("# banned\n  oAlice  # spam\n\t\n#oBob01\n", &["oAlice"]),
            ("\u{feff}oAlice", &["oAlice"]),
            ("oAlice\noAlice", &["oAlice"]),
            ("# 封禁\no_-123", &["o_-123"]),
        ] {
            let expected: HashSet<Box<str>> = openids.iter().map(|&openid| openid.into()).collect();
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn a_line_that_is_no_openid_is_refused_by_its_number() {
        let long = "o".repeat(65);
        for (text, line) in [
            ("oAlice\nshort", 2),
            ("oAlice oBob01", 1),
            ("oAlice,", 1),
            ("\n\n# x\n封禁封禁封禁", 4),
            (&long, 1),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(line), "{text:?}");
        }
        assert_eq!(parse(b"oAlice\n\xff\xff\xff\xff\xff\xff"), Err(2));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_shows_the_file_and_no_openid() {
        let directory = tempfile::tempdir().unwrap();
        let lists = Lists::new();
        let missing = lists.open(&directory.path().join("missing")).unwrap_err();
        assert!(matches!(missing, RouteError::ListUnreadable { .. }), "{missing}");
        let not_a_file = lists.open(directory.path()).unwrap_err();
        assert!(matches!(not_a_file, RouteError::ListNotAFile { .. }), "{not_a_file}");
        let path = directory.path().join("bad");
        write(&path, "oAlice\noMallory!").unwrap();
        let bad = lists.open(&path).unwrap_err().to_string();
        assert!(bad.contains("bad`, line 2") && !bad.contains("oMallory"), "{bad}");
        let path = directory.path().join("long");
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let long = lists.open(&path).unwrap_err();
        assert!(matches!(long, RouteError::ListTooLarge { .. }), "{long}");
        assert!(lists.lock().is_empty(), "what could not be read is not watched");
    }

    #[test]
    fn a_change_is_read_within_three_looks() {
        let scene = Scene::with("oAlice");
        scene.look(3);
        for (text, inside, outside) in
            [("oBob01", "oBob01", "oAlice"), ("oAlice", "oAlice", "oBob01")]
        {
            scene.replace(text);
            scene.look(3);
            assert!(scene.list.contains(inside) && !scene.list.contains(outside));
        }
        write(scene.path(), "oCarol").unwrap();
        scene.look(3);
        assert!(scene.list.contains("oCarol") && !scene.list.contains("oAlice"));
        assert_eq!(format!("{:?}", scene.list), "[1 openids]");
    }

    #[test]
    fn a_file_is_left_alone_while_it_is_being_written_but_not_for_ever() {
        let scene = Scene::with("oAlice");
        scene.look(3);
        scene.replace("oBob01");
        scene.look(1);
        scene.replace("oBob01\noCarol");
        scene.look(1);
        assert!(scene.list.contains("oAlice"), "it changed between the looks");
        scene.replace("oBob01\noCarol\noDave1");
        scene.look(1);
        assert!(scene.list.contains("oDave1"), "the third look reads it all the same");
        scene.replace("oErin1");
        scene.look(2);
        assert!(scene.list.contains("oErin1"), "a file that settled is read on the second look");
    }

    #[test]
    fn a_write_that_left_no_trace_at_the_start_is_seen() {
        let scene = Scene::with("oAlice");
        // As if the file had been changed within one tick of its file system's clock.
        scene.list.0.store(Arc::new(HashSet::new()));
        scene.look(2);
        assert!(scene.list.contains("oAlice"));
    }

    #[test]
    fn a_vanished_or_broken_file_leaves_the_last_good_list_in_force() {
        let scene = Scene::with("oAlice");
        scene.look(3);
        rename(scene.path(), scene.directory.path().join("away")).unwrap();
        scene.look(3);
        assert!(scene.list.contains("oAlice") && scene.is_stale());
        rename(scene.directory.path().join("away"), scene.path()).unwrap();
        scene.look(1);
        assert!(scene.list.contains("oAlice"));
        scene.look(2);
        assert!(!scene.is_stale(), "it is as it was");
        scene.replace("no!");
        scene.look(3);
        assert!(scene.list.contains("oAlice") && scene.is_stale());
        scene.look(3);
        assert!(scene.is_stale(), "to look again does not mend it");
        scene.replace("oBob01");
        scene.look(3);
        assert!(scene.list.contains("oBob01") && !scene.list.contains("oAlice"));
        assert!(!scene.is_stale());
        remove_file(scene.path()).unwrap();
        scene.look(3);
        assert!(scene.list.contains("oBob01") && scene.is_stale());
    }

    #[test]
    fn a_reload_shares_the_list_and_forgets_those_without_a_user() {
        let scene = Scene::with("oAlice");
        scene.replace("oBob01");
        let again = scene.lists.open(&scene.path()).unwrap();
        assert!(scene.list.contains("oBob01"), "opened again, it is read again");
        assert!(Arc::ptr_eq(&again, &scene.list));
        drop(again);
        let Scene { directory: _directory, lists, list } = scene;
        lists.look();
        assert_eq!(lists.lock().len(), 1);
        drop(list);
        lists.look();
        assert_eq!(lists.lock().len(), 0);
    }

    #[tokio::test]
    async fn a_change_is_live_within_two_seconds() {
        let scene = Scene::with("oAlice");
        let watcher = tokio::spawn(Arc::clone(&scene.lists).watch());
        let mut times = Vec::new();
        for openid in ["oBob01", "oCarol", "oDave1"] {
            scene.replace(openid);
            let written = Instant::now();
            while !scene.list.contains(openid) {
                assert!(written.elapsed() < Duration::from_secs(10), "{openid} is not live yet");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            times.push(written.elapsed());
        }
        watcher.abort();
        // A machine may stand still in one of them.
        let kept = times.iter().filter(|took| **took < Duration::from_secs(2)).count();
        assert!(kept >= 2, "{times:?}");
    }
}
