//! The folder with the evidence images that workers write. A worker names the path of an image, so a path is not trusted: it
//! cannot leave the folder, follow a link, or name anything but an image of limited size.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use event_schemas::ids::{JobId, Tenant};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

/// The largest image that is served.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The bytes that identify the format of an image.
const SIGNATURE_BYTES: u64 = 12;

/// The media folder of the server.
#[derive(Clone, Debug)]
pub struct MediaFolder {
    path: PathBuf,
    /// Whether tenants are separated, because callers have credentials. Then an image must be in a folder with the id of its job or
    /// the name of its tenant: the worker of another tenant may name any path.
    is_shared: bool,
}

/// An image that may be served.
#[derive(Debug)]
pub struct Image {
    /// At the start of the file.
    pub(crate) file: File,
    pub(crate) bytes: u64,
    pub(crate) media_type: &'static str,
    /// Changes when the file is replaced.
    pub(crate) etag: String,
}

impl MediaFolder {
    /// # Errors
    /// The folder cannot be read.
    pub fn open(path: PathBuf, is_shared: bool) -> std::io::Result<Self> {
        let folder = Self { path, is_shared };
        folder.root()?;
        Ok(folder)
    }

    fn root(&self) -> rustix::io::Result<OwnedFd> {
        // The folder itself may be a link, because an operator names it.
        rustix::fs::openat(
            CWD,
            &self.path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }

    /// The image at a path that a worker has reported; none if there is none that may be served. The reason is not given, so that
    /// a path reveals nothing about other files.
    pub(crate) fn image(&self, tenant: &Tenant, job: JobId, reported: &str) -> Option<Image> {
        let names = self.names(Path::new(reported))?;
        let first = names.first().copied()?;
        let is_own = first == OsStr::new(&job.to_string()) || first == OsStr::new(tenant.as_str());
        if self.is_shared && !(is_own && names.len() > 1) {
            return None;
        }
        let (name, folders) = names.split_last()?;
        let mut folder = self.root().ok()?;
        for name in folders {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = rustix::fs::openat(folder.as_fd(), *name, flags, Mode::empty()).ok()?;
        }
        // Opening a device could have an effect, and opening a pipe could wait.
        let found = rustix::fs::statat(folder.as_fd(), *name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Image::of(rustix::fs::openat(folder.as_fd(), *name, flags, Mode::empty()).ok()?.into())
    }

    /// The names of the path in the folder, each a folder but the last. A worker may report its own path to the folder, too.
    fn names<'a>(&self, reported: &'a Path) -> Option<Vec<&'a OsStr>> {
        let parts = reported.strip_prefix(&self.path).unwrap_or(reported).components();
        let names = parts.filter(|part| *part != Component::CurDir);
        names.map(|part| if let Component::Normal(name) = part { Some(name) } else { None }).collect()
    }
}

impl Image {
    fn of(mut file: File) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() > BYTES_MAX {
            return None;
        }
        let mut signature = Vec::new();
        file.by_ref().take(SIGNATURE_BYTES).read_to_end(&mut signature).ok()?;
        let media_type = media_type(&signature)?;
        std::io::Seek::rewind(&mut file).ok()?;
        let changed = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let etag = format!("\"{:x}-{:x}\"", metadata.len(), changed.as_nanos());
        Some(Self { file, bytes: metadata.len(), media_type, etag })
    }
}

/// The type of an image by its first bytes, whatever its name is. Formats that can contain scripts, such as SVG, are not served.
fn media_type(signature: &[u8]) -> Option<&'static str> {
    match signature {
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and the rest";

    fn acme() -> Tenant {
        "acme".parse().unwrap()
    }

    fn job() -> JobId {
        "018f0000-0000-7000-8000-000000000001".parse().unwrap()
    }

    fn found(folder: &MediaFolder, path: &str) -> Option<&'static str> {
        folder.image(&acme(), job(), path).map(|image| image.media_type)
    }

    #[test]
    fn images_are_recognised_by_their_content() {
        let at = tempfile::tempdir().unwrap();
        let folder = MediaFolder::open(at.path().to_owned(), false).unwrap();
        for (name, content, expected) in [
            ("a.jpg", b"\xFF\xD8\xFF\xE0 jpeg".as_slice(), Some("image/jpeg")),
            ("b.jpg", PNG, Some("image/png")),
            ("c", b"GIF89a".as_slice(), Some("image/gif")),
            ("d.webp", b"RIFF\x01\x02\x03\x04WEBPVP8 ".as_slice(), Some("image/webp")),
            ("e.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>".as_slice(), None),
            ("f.png", b"<script>alert(1)</script>".as_slice(), None),
            ("g.png", b"".as_slice(), None),
        ] {
            std::fs::write(at.path().join(name), content).unwrap();
            assert_eq!(found(&folder, name), expected, "{name}");
        }
        std::fs::write(at.path().join("h.png"), PNG).unwrap();
        File::options().write(true).open(at.path().join("h.png")).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert_eq!(found(&folder, "h.png"), None, "it is too large");
    }

    #[test]
    fn path_cannot_leave_the_folder() {
        let at = tempfile::tempdir().unwrap();
        let media = at.path().join("media");
        std::fs::create_dir_all(media.join("inner")).unwrap();
        std::fs::write(media.join("inner/in.png"), PNG).unwrap();
        std::fs::write(at.path().join("out.png"), PNG).unwrap();
        symlink("../out.png", media.join("link.png")).unwrap();
        symlink("inner/in.png", media.join("inner-link.png")).unwrap();
        symlink("..", media.join("parent")).unwrap();
        rustix::fs::mkfifoat(CWD, media.join("pipe.png"), Mode::RWXU).unwrap();
        let folder = MediaFolder::open(media.clone(), false).unwrap();
        let own = media.join("inner/in.png").display().to_string();
        for path in ["inner/in.png", "./inner/in.png", "inner//in.png", &own] {
            assert_eq!(found(&folder, path), Some("image/png"), "{path}");
        }
        let (outside, within) = (at.path().join("out.png"), media.join("../out.png"));
        for path in [
            "../out.png",
            "inner/../../out.png",
            "inner/../inner/in.png",
            outside.to_str().unwrap(),
            within.to_str().unwrap(),
            "link.png",
            "inner-link.png",
            "parent/out.png",
            "pipe.png",
            "inner",
            "inner/in.png/x",
            "/etc/passwd",
            "/dev/zero",
            "",
            ".",
            "/",
            "inner/in.png\0",
            "https://example.com/in.png",
        ] {
            assert_eq!(found(&folder, path), None, "{path:?}");
        }
    }

    #[test]
    fn worker_cannot_name_the_image_of_another_tenant() {
        let at = tempfile::tempdir().unwrap();
        let own = job().to_string();
        for folder in [own.as_str(), "acme", "other"] {
            std::fs::create_dir_all(at.path().join(folder)).unwrap();
            std::fs::write(at.path().join(folder).join("in.png"), PNG).unwrap();
        }
        std::fs::write(at.path().join("in.png"), PNG).unwrap();
        let folder = MediaFolder::open(at.path().to_owned(), true).unwrap();
        assert!(found(&folder, &format!("{own}/in.png")).is_some());
        assert!(found(&folder, "acme/in.png").is_some());
        assert!(found(&folder, "other/in.png").is_none());
        assert!(found(&folder, "in.png").is_none());
        let open = MediaFolder::open(at.path().to_owned(), false).unwrap();
        assert!(found(&open, "other/in.png").is_some());
    }
}
