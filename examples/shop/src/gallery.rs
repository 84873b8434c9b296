//! Pictures of a matching job for the catalogue: images of products, and cutouts of frames, served over HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use image::{ImageError, ImageFormat};
use tokio::net::TcpListener;

/// Cutouts are taken from each fourth frame, because neighbours differ little.
const FRAME_STEP: usize = 4;
/// A cutout has half the width of the frame and two thirds of its height, and overlaps with its neighbours.
const COLUMNS: u32 = 3;
const ROWS: u32 = 2;

/// Why the pictures cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a picture: {source}")]
    Picture { path: PathBuf, source: ImageError },
    #[error("{0} contains no JPEG files")]
    Empty(PathBuf),
}

/// The pictures, by their paths.
#[derive(Debug, Default)]
pub struct Gallery {
    pictures: BTreeMap<String, Bytes>,
    /// The paths of the images of each product.
    pub products: BTreeMap<String, Vec<String>>,
    /// The path of each cutout, by its number.
    pub cutouts: BTreeMap<u64, String>,
}

impl Gallery {
    /// Reads `products/<product>-<n>.jpg` and `frames/<frame>.jpg` of a folder. The numbers of the cutouts follow from the files.
    ///
    /// # Errors
    /// [`GalleryError`]
    pub fn read(media: &Path) -> Result<Self, GalleryError> {
        let mut gallery = Self::default();
        for file in jpegs(&media.join("products"))? {
            let name = stem(&file);
            let product = name.rsplit_once('-').map_or(name.as_str(), |(product, _)| product).to_owned();
            let path = format!("/products/{name}.jpg");
            gallery.pictures.insert(path.clone(), bytes_of(&file)?.into());
            gallery.products.entry(product).or_default().push(path);
        }
        for (frame, file) in (0..).zip(jpegs(&media.join("frames"))?).step_by(FRAME_STEP) {
            for (part, picture) in (1..).zip(cut(&file)?) {
                let number = frame * 10 + part;
                let path = format!("/cutouts/{number}.jpg");
                gallery.pictures.insert(path.clone(), picture);
                gallery.cutouts.insert(number, path);
            }
        }
        Ok(gallery)
    }

    /// Serves the pictures without end.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> Infallible {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // For example too many open files: other connections must be closed first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let gallery = Arc::clone(&self);
            let service = service_fn(move |request: Request<Incoming>| {
                std::future::ready(Ok::<_, Infallible>(
                    gallery.respond(request.method(), request.uri().path()),
                ))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        }
    }

    fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let found = self.pictures.get(path).filter(|_| is_read).cloned();
        let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let response = Response::builder().status(status).header(CONTENT_TYPE, "image/jpeg");
        response.body(Full::new(found.unwrap_or_default())).expect("a status and a body make a response")
    }
}

/// The overlapping parts of a frame, row by row.
fn cut(file: &Path) -> Result<Vec<Bytes>, GalleryError> {
    let not_a_picture = |source| GalleryError::Picture { path: file.to_owned(), source };
    let frame = image::load_from_memory(&bytes_of(file)?).map_err(not_a_picture)?;
    let (width, height) = (frame.width() / 2, frame.height() * 2 / 3);
    let places = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (column, row)));
    let parts = places.map(|(column, row)| {
        let (x, y) = (column * width / (COLUMNS - 1), row * (frame.height() - height) / (ROWS - 1));
        let mut bytes = Vec::new();
        frame.crop_imm(x, y, width, height).write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg)?;
        Ok(Bytes::from(bytes))
    });
    parts.collect::<Result<_, _>>().map_err(not_a_picture)
}

/// The JPEG files of a folder, by name.
fn jpegs(folder: &Path) -> Result<Vec<PathBuf>, GalleryError> {
    let unreadable = |source| GalleryError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "jpg") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(GalleryError::Empty(folder.to_owned())) } else { Ok(files) }
}

fn bytes_of(file: &Path) -> Result<Vec<u8>, GalleryError> {
    std::fs::read(file).map_err(|source| GalleryError::Read { path: file.to_owned(), source })
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gallery() -> Gallery {
        Gallery::read(Path::new("../data/matching")).unwrap()
    }

    #[test]
    fn gallery_has_products_and_overlapping_cutouts() {
        let gallery = gallery();
        assert_eq!((gallery.products.len(), gallery.products["hedge"].len()), (10, 2));
        assert_eq!(gallery.products["not-there-rocket"], ["/products/not-there-rocket-1.jpg"]);
        // Nine of 33 frames, six cutouts of each.
        assert_eq!(gallery.cutouts.len(), 54);
        let numbers: Vec<u64> = gallery.cutouts.keys().copied().collect();
        assert_eq!((&numbers[..7], numbers[53]), (&[1, 2, 3, 4, 5, 6, 41][..], 326));
        let last = image::load_from_memory(&gallery.pictures["/cutouts/326.jpg"]).unwrap();
        assert_eq!((last.width(), last.height()), (320, 240));
    }

    #[test]
    fn only_pictures_are_served_and_only_for_reading() {
        let gallery = gallery();
        let status = |method, path| gallery.respond(&method, path).status().as_u16();
        assert_eq!(status(Method::GET, "/cutouts/1.jpg"), 200);
        assert_eq!(status(Method::GET, "/products/hedge-1.jpg"), 200);
        assert_eq!(status(Method::POST, "/cutouts/1.jpg"), 404);
        assert_eq!(status(Method::GET, "/products/../README.md"), 404);
    }

    #[test]
    fn folder_without_pictures_is_refused() {
        let error = Gallery::read(Path::new("src")).unwrap_err();
        assert!(matches!(error, GalleryError::Read { .. }), "{error}");
        assert!(matches!(jpegs(Path::new("src")), Err(GalleryError::Empty(_))));
    }
}
