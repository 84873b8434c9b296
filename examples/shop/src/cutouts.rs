//! Sends the products and the cutouts of a gallery to a server, and starts the extraction of their vectors.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, Failure};
use crate::gallery::Gallery;

const PAUSE: Duration = Duration::from_millis(500);

/// Sends all of it; what the server has already changes nothing there. `base` is the address of the pictures.
///
/// # Errors
/// [`Failure`]
pub async fn push(api: &Api, gallery: &Gallery, base: &str) -> Result<(), Failure> {
    let address = |path: &String| format!("{base}{path}");
    let products: String = gallery
        .products
        .iter()
        .map(|(id, images)| {
            let (first, others) = (images.first().map(address), images.iter().skip(1).map(address));
            let name = id.replace('-', " ");
            let facts = json!({
                "id": id, "name": name, "category_id": "clip", "category_name": "Big Buck Bunny",
                "image_url": first, "images": others.collect::<Vec<_>>(),
            });
            format!("{facts}\n")
        })
        .collect();
    api.post_lines("/api/v1/products/batch", products).await?;
    let cutouts: Vec<Value> = gallery
        .cutouts
        .iter()
        .map(|(number, path)| json!({ "external_id": number, "image_url": address(path) }))
        .collect();
    api.post("/api/v1/cutouts", &cutouts.into(), None).await?;
    Ok(())
}

/// Starts the extractions of vectors as soon as a worker has registered the model. Images that have a vector are left out, so a
/// repetition costs little; the key makes the server start them once for each address of the pictures.
///
/// # Errors
/// [`Failure`]
pub async fn extract(api: &Api, gallery: &Gallery, base: &str, model: &str) -> Result<(), Failure> {
    while api.get(&format!("/api/v1/embeddings/models/{model}")).await?.is_none() {
        tokio::time::sleep(PAUSE).await;
    }
    let products: Vec<&String> = gallery.products.keys().collect();
    let jobs = [
        json!({ "job_type": "extract_cutouts", "model_id": model }),
        json!({ "job_type": "extract_products", "model_id": model, "product_ids": products }),
    ];
    for (number, job) in jobs.iter().enumerate() {
        let key = format!("shop-extract-{number}-{model}-{base}");
        api.post("/api/v1/embeddings/extract", job, Some(&key)).await?;
    }
    Ok(())
}
