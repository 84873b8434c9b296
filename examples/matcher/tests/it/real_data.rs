//! The vision on real pictures: what must be found is, what is not there is not.

use std::path::PathBuf;

use matchbook_matcher::check::{Check, check};
use matchbook_matcher::media::{Folder, Media};
use serde_json::Value;

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/matching")
}

/// Some images against every fourth frame: few enough to run everywhere, from the clip's beginning to its end.
fn check_images(wanted: impl Fn(&str) -> bool) -> Check {
    let media = Media::new(data());
    let images: Vec<_> = media
        .ids(Folder::Products)
        .expect("products/ is there")
        .into_iter()
        .filter(|image| wanted(image))
        .collect();
    let frames: Vec<_> =
        media.ids(Folder::Frames).expect("frames/ is there").into_iter().step_by(4).collect();
    assert_eq!(frames.len(), 9);
    check(&media, &images, &frames).expect("all pictures are sound")
}

#[test]
fn what_is_in_every_frame_is_found_in_every_frame() {
    let checked = check_images(|image| ["hedge-1", "yellow-bush-2"].contains(&image));
    let found: Vec<_> = checked.images.iter().map(|image| (image.img_id.as_str(), image.found)).collect();
    assert_eq!(found, [("hedge-1", 9), ("yellow-bush-2", 9)]);
    // Well clear of the threshold of 12, so that no rounding tips a frame.
    assert!(checked.images.iter().all(|image| image.inliers_min >= 20), "{checked}");
}

#[test]
fn what_is_found_moves_with_the_camera_and_never_jumps() {
    // The camera drifts down and left until f080 and then stands: the products drift up to 25 pixels the other way.
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
fn what_is_not_there_is_found_in_no_frame() {
    let checked = check_images(|image| image.starts_with("not-there-"));
    assert_eq!(checked.images.len(), 4);
    assert_eq!(checked.matches, 0, "{checked}");
    assert!(checked.images.iter().all(|image| image.inliers_max <= 8), "{checked}");
}

#[test]
fn whatever_the_reference_finds_is_found_here() {
    let reference: Value =
        serde_json::from_str(&std::fs::read_to_string(data().join("orb-ransac-reference.json")).unwrap())
            .unwrap();
    let in_all_frames = |image: &str| reference[format!("{image}.jpg")]["frames_with_12_inliers"] == 33;
    let checked = check_images(in_all_frames);
    assert_eq!(checked.images.len(), 4);
    assert_eq!(checked.matches, 4 * 9, "{checked}");
}
