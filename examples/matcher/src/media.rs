//! Where pictures are: `products/` and `frames/` under one folder, by id or by the file name a url ends in. Features
//! are computed once a process, for a request compares each of its pictures many times.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use image::imageops::FilterType;
use image::{DynamicImage, ImageError, ImageReader};

use crate::features::Features;

/// Longer sides are shrunk to this before anything else: more pixels cost time and find nothing more.
const SIDE_MAX: u32 = 1_600;
/// About 80 MB of features at most; the oldest go first.
const FEATURES_CACHED_MAX: usize = 1_024;
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Folder {
    Products,
    Frames,
}

impl Folder {
    fn name(self) -> &'static str {
        match self {
            Self::Products => "products",
            Self::Frames => "frames",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error(
        "no picture for `{id}`: {expected} is not there; add it, or point --media at the folder that has it"
    )]
    Missing { id: String, expected: PathBuf },
    #[error("cannot decode {path}: {source}; replace it by a sound JPEG or PNG")]
    Unreadable { path: PathBuf, source: ImageError },
    #[error("cannot list {path}: {source}; point --media at a folder with products/ and frames/ in it")]
    Unlistable { path: PathBuf, source: std::io::Error },
}

#[derive(Debug)]
pub struct Media {
    dir: PathBuf,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    features: HashMap<PathBuf, Arc<Features>>,
    oldest_first: VecDeque<PathBuf>,
}

impl Media {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, cache: Mutex::default() }
    }

    /// The file of a picture. A url counts by its last segment alone, and only if that file is there.
    pub fn find(&self, folder: Folder, id: &str, url: Option<&str>) -> Result<PathBuf, MediaError> {
        let folder = self.dir.join(folder.name());
        let by_url = url.and_then(last_segment).into_iter().map(str::to_owned);
        let by_id = is_file_name(id).then(|| ENDINGS.map(|ending| format!("{id}.{ending}")));
        by_url
            .chain(by_id.into_iter().flatten())
            .map(|name| folder.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| MediaError::Missing {
                id: id.to_owned(),
                expected: folder.join(format!("{}.jpg", id.replace('/', "_"))),
            })
    }

    /// The features of a picture file. Blocks while they are computed, about a tenth of a second for the first time.
    pub fn features(&self, path: &Path) -> Result<Arc<Features>, MediaError> {
        if let Some(features) = self.lock().features.get(path) {
            return Ok(Arc::clone(features));
        }
        // Computed outside the lock: two threads may do it twice, which costs time and nothing else.
        let features = Arc::new(Features::of(&load(path)?.to_luma8()));
        let mut cache = self.lock();
        if cache.features.insert(path.to_owned(), Arc::clone(&features)).is_none() {
            cache.oldest_first.push_back(path.to_owned());
        }
        if cache.oldest_first.len() > FEATURES_CACHED_MAX
            && let Some(oldest) = cache.oldest_first.pop_front()
        {
            cache.features.remove(&oldest);
        }
        Ok(features)
    }

    /// The ids of all pictures of a folder, in order.
    pub fn ids(&self, folder: Folder) -> Result<Vec<String>, MediaError> {
        let path = self.dir.join(folder.name());
        let failed = |source| MediaError::Unlistable { path: path.clone(), source };
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let ending = file.extension().and_then(|ending| ending.to_str());
            if ending.is_some_and(|ending| ENDINGS.contains(&ending))
                && let Some(id) = file.file_stem().and_then(|stem| stem.to_str())
            {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Decodes a picture file, whatever its ending says it is, and shrinks it if it is very large.
pub fn load(path: &Path) -> Result<DynamicImage, MediaError> {
    let unreadable = |source| MediaError::Unreadable { path: path.to_owned(), source };
    let picture = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(ImageError::IoError)
        .and_then(ImageReader::decode)
        .map_err(unreadable)?;
    if picture.width().max(picture.height()) <= SIDE_MAX {
        return Ok(picture);
    }
    Ok(picture.resize(SIDE_MAX, SIDE_MAX, FilterType::Triangle))
}

fn last_segment(url: &str) -> Option<&str> {
    let path = url.split(['?', '#']).next()?;
    let name = path.rsplit('/').next()?;
    is_file_name(name).then_some(name)
}

/// Ids come from outside: none may name a file elsewhere.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media_with(files: &[&str]) -> (tempfile::TempDir, Media) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["products", "frames"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for file in files {
            image::GrayImage::new(8, 8).save(dir.path().join(file)).unwrap();
        }
        let media = Media::new(dir.path().to_owned());
        (dir, media)
    }

    fn found_name(found: &Path) -> &str {
        found.file_name().unwrap().to_str().unwrap()
    }

    #[test]
    fn an_image_is_found_by_its_id_and_by_the_file_name_of_its_url() {
        let (_dir, media) = media_with(&["products/a.jpg", "products/b.png"]);
        let by_id = media.find(Folder::Products, "b", None).unwrap();
        assert_eq!(found_name(&by_id), "b.png");
        let by_url = media.find(Folder::Products, "x", Some("https://cdn.example/p/a.jpg?w=2")).unwrap();
        assert_eq!(found_name(&by_url), "a.jpg");
        let by_id_after_all =
            media.find(Folder::Products, "a", Some("https://cdn.example/other.jpg")).unwrap();
        assert_eq!(found_name(&by_id_after_all), "a.jpg");
    }

    #[test]
    fn an_id_cannot_reach_outside_its_folder() {
        let (_dir, media) = media_with(&["products/a.jpg"]);
        for id in ["../products/a", "..", "/etc/passwd", ""] {
            assert!(
                matches!(media.find(Folder::Frames, id, Some(id)), Err(MediaError::Missing { .. })),
                "{id}"
            );
        }
    }

    #[test]
    fn a_missing_picture_says_which_file_is_wanted() {
        let (_dir, media) = media_with(&[]);
        let error = media.find(Folder::Frames, "f004", None).unwrap_err().to_string();
        assert!(error.contains("frames/f004.jpg") && error.contains("--media"), "{error}");
    }

    #[test]
    fn features_are_computed_once() {
        let (_dir, media) = media_with(&["frames/f.png"]);
        let path = media.find(Folder::Frames, "f", None).unwrap();
        let (first, again) = (media.features(&path).unwrap(), media.features(&path).unwrap());
        assert!(Arc::ptr_eq(&first, &again));
    }

    #[test]
    fn a_broken_picture_is_an_error_that_names_it() {
        let (dir, media) = media_with(&[]);
        let path = dir.path().join("frames/f.jpg");
        std::fs::write(&path, "no picture").unwrap();
        assert!(media.features(&path).unwrap_err().to_string().contains("f.jpg"));
    }
}
