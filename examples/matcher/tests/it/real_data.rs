//! The vision code on real images: products in the frames are found, others are not.

use std::path::PathBuf;

use matchbook_matcher::check::{Check, check};
use matchbook_matcher::media::{Folder, Media};
use serde_json::Value;

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/matching")
}

/// Compares some images with every fourth frame, over the whole clip.
fn check_images(wanted: impl Fn(&str) -> bool) -> Check {
    let media = Media::new(data());
    let images: Vec<_> = media
        .ids(Folder::Products)
        .expect("products/ exists")
        .into_iter()
        .filter(|image| wanted(image))
        .collect();
    let frames: Vec<_> = media.ids(Folder::Frames).expect("frames/ exists").into_iter().step_by(4).collect();
    assert_eq!(frames.len(), 9);
    check(&media, &images, &frames).expect("all images are valid")
}

#[test]
fn products_in_all_frames_are_found_in_all_frames() {
    let checked = check_images(|image| ["hedge-1", "yellow-bush-2"].contains(&image));
    let found: Vec<_> = checked.images.iter().map(|image| (image.img_id.as_str(), image.found)).collect();
    assert_eq!(found, [("hedge-1", 9), ("yellow-bush-2", 9)]);
    // Well above the threshold of 12, so that rounding does not matter.
    assert!(checked.images.iter().all(|image| image.inliers_min >= 20), "{checked}");
}

#[test]
fn outlines_move_with_the_camera_without_jumps() {
    // The camera moves down and left until f080 and then stops: the products move up to 25 pixels the other way.
    let checked =
        check_images(|image| ["hedge-1", "stone-seat-2", "tree-root-2", "yellow-bush-2"].contains(&image));
    for image in &checked.images {
        assert!(image.found >= 5, "{checked}");
        let centre = |index: usize| {
            let corners = image.matches[index].outline.unwrap();
            (corners.iter().map(|c| c.0).sum::<f64>() / 4.0, corners.iter().map(|c| c.1).sum::<f64>() / 4.0)
        };
        for index in 1..image.found {
            let ((x, y), (last_x, last_y)) = (centre(index), centre(index - 1));
            assert!((x - last_x).hypot(y - last_y) < 12.0, "{} jumps: {:?}", image.img_id, image.matches);
        }
    }
}

#[test]
fn absent_products_are_found_in_no_frame() {
    let checked = check_images(|image| image.starts_with("not-there-"));
    assert_eq!(checked.images.len(), 4);
    assert_eq!(checked.matches, 0, "{checked}");
    assert!(checked.images.iter().all(|image| image.inliers_max <= 8), "{checked}");
}

#[test]
fn matches_of_the_reference_are_found() {
    let reference: Value =
        serde_json::from_str(&std::fs::read_to_string(data().join("orb-ransac-reference.json")).unwrap())
            .unwrap();
    let in_all_frames = |image: &str| reference[format!("{image}.jpg")]["frames_with_12_inliers"] == 33;
    let checked = check_images(in_all_frames);
    assert_eq!(checked.images.len(), 4);
    assert_eq!(checked.matches, 4 * 9, "{checked}");
}
