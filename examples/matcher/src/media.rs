//! The image files: `products/` and `frames/` in one folder, found by id or by the file name at the end of a url. Features
//! are cached, because a request compares each image many times.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use image::imageops::FilterType;
use image::{DynamicImage, ImageError, ImageReader};

use crate::features::Features;

/// Larger images are scaled down to this side: more pixels cost time without better results.
const SIDE_MAX: u32 = 1_600;
/// The most cached features, about 80 MB; the oldest are evicted first.
const FEATURES_CACHED_MAX: usize = 1_024;
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

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
        "no image for `{id}`: {expected} does not exist; add it, or set --media to the folder that contains it"
    )]
    Missing { id: String, expected: PathBuf },
    #[error("cannot decode {path}: {source}; replace it by a valid JPEG or PNG")]
    Unreadable { path: PathBuf, source: ImageError },
    #[error("cannot list {path}: {source}; set --media to a folder with products/ and frames/")]
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

    /// The file of an image. Only the last segment of a url is used, and only if this file exists.
    pub fn find(&self, folder: Folder, id: &str, url: Option<&str>) -> Result<PathBuf, MediaError> {
        let folder = self.dir.join(folder.name());
        let by_url = url.and_then(last_segment).into_iter().map(str::to_owned);
        let by_id = is_file_name(id).then(|| EXTENSIONS.map(|extension| format!("{id}.{extension}")));
        by_url
            .chain(by_id.into_iter().flatten())
            .map(|name| folder.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| MediaError::Missing {
                id: id.to_owned(),
                expected: folder.join(format!("{}.jpg", id.replace('/', "_"))),
            })
    }

    /// The features of an image file. Blocks while they are computed the first time, about a tenth of a second.
    pub fn features(&self, path: &Path) -> Result<Arc<Features>, MediaError> {
        if let Some(features) = self.lock().features.get(path) {
            return Ok(Arc::clone(features));
        }
        // Computed outside the lock: two threads may compute the same features, which only costs time.
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

    /// The sorted ids of all images of a folder.
    pub fn ids(&self, folder: Folder) -> Result<Vec<String>, MediaError> {
        let path = self.dir.join(folder.name());
        let failed = |source| MediaError::Unlistable { path: path.clone(), source };
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let extension = file.extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
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

/// Decodes an image file, independent of its extension, and scales it down if it is very large.
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

/// Ids come from requests: they must not name a file in another folder.
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
    fn image_is_found_by_id_and_by_file_name_of_its_url() {
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
    fn id_cannot_name_a_file_outside_its_folder() {
        let (_dir, media) = media_with(&["products/a.jpg"]);
        for id in ["../products/a", "..", "/etc/passwd", ""] {
            assert!(
                matches!(media.find(Folder::Frames, id, Some(id)), Err(MediaError::Missing { .. })),
                "{id}"
            );
        }
    }

    #[test]
    fn missing_image_error_names_the_expected_file() {
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
    fn invalid_image_error_names_the_file() {
        let (dir, media) = media_with(&[]);
        let path = dir.path().join("frames/f.jpg");
        std::fs::write(&path, "not an image").unwrap();
        assert!(media.features(&path).unwrap_err().to_string().contains("f.jpg"));
    }
}
