//! The projective map from product image to frame: fitted to point pairs, and refused if no camera could produce it.

use nalgebra::{Matrix3, Point2, SMatrix, SVector, Vector3};

use crate::matching::Correspondence;

/// The largest change of a length between product image and frame, as a factor.
const STRETCH_MAX: f64 = 6.0;
/// The largest ratio of the stretch in two directions: beyond it, a surface is seen almost edge on.
const SKEW_MAX: f64 = 3.0;
/// The smallest distance of two points, in pixels, for a map through four points.
const APART_MIN: f64 = 4.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Homography(Matrix3<f64>);

impl Homography {
    /// The map given by its matrix, up to scale; none for a matrix that maps the origin to infinity.
    pub fn from_matrix(matrix: Matrix3<f64>) -> Option<Self> {
        let last = matrix[(2, 2)];
        (matrix.iter().all(|v| v.is_finite()) && last.abs() > 1e-12).then(|| Self(matrix / last))
    }

    /// The position of a product image point in the frame; none beyond the horizon.
    pub fn project(&self, point: Point2<f64>) -> Option<Point2<f64>> {
        let mapped = self.0 * Vector3::new(point.x, point.y, 1.0);
        (mapped.z > 1e-9).then(|| Point2::new(mapped.x / mapped.z, mapped.y / mapped.z))
    }

    /// The distance in frame pixels between the mapped product point of a correspondence and its frame point.
    pub fn error(&self, pair: &Correspondence) -> f64 {
        self.project(pair.product).map_or(f64::INFINITY, |at| nalgebra::distance(&at, &pair.frame))
    }

    /// The exact map through four pairs; none if they are too close, collinear, or mirrored.
    pub fn through_four(pairs: [&Correspondence; 4]) -> Option<Self> {
        if !spread_alike(pairs) {
            return None;
        }
        let mut system = SMatrix::<f64, 8, 8>::zeros();
        let mut known = SVector::<f64, 8>::zeros();
        for (index, pair) in pairs.into_iter().enumerate() {
            let (x, y, u, v) = (pair.product.x, pair.product.y, pair.frame.x, pair.frame.y);
            let (upper, lower) = (2 * index, 2 * index + 1);
            for (column, value) in [(0, x), (1, y), (2, 1.0), (6, -u * x), (7, -u * y)] {
                system[(upper, column)] = value;
            }
            for (column, value) in [(3, x), (4, y), (5, 1.0), (6, -v * x), (7, -v * y)] {
                system[(lower, column)] = value;
            }
            known[upper] = u;
            known[lower] = v;
        }
        let h = system.lu().solve(&known)?;
        Self::from_matrix(Matrix3::new(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], 1.0))
    }

    /// The least-squares map over four or more pairs: the normalised direct linear transform
    /// (Hartley and Zisserman, algorithm 4.2). `tilt_damping` pulls it towards a map without tilt, about as
    /// strongly as this number of correspondences; 0 is plain least squares. O(pairs).
    pub fn fit(pairs: &[Correspondence], tilt_damping: f64) -> Option<Self> {
        if pairs.len() < 4 {
            return None;
        }
        let from = normalisation(pairs.iter().map(|pair| pair.product))?;
        let to = normalisation(pairs.iter().map(|pair| pair.frame))?;
        let mut normal = SMatrix::<f64, 9, 9>::zeros();
        for pair in pairs {
            let (p, q) = (from.transform_point(&pair.product), to.transform_point(&pair.frame));
            let (x, y, u, v) = (p.x, p.y, q.x, q.y);
            let upper = SVector::<f64, 9>::from([x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y, -u]);
            let lower = SVector::<f64, 9>::from([0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y, -v]);
            normal += upper * upper.transpose() + lower * lower.transpose();
        }
        for tilt in [6, 7] {
            normal[(tilt, tilt)] += tilt_damping;
        }
        let eigen = normal.symmetric_eigen();
        let h = eigen.eigenvectors.column(eigen.eigenvalues.imin());
        let normalised = Matrix3::new(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8]);
        Self::from_matrix(to.try_inverse()? * normalised * from)
    }

    /// The product image's outline in the frame: top left, top right, bottom right, bottom left.
    pub fn outline(&self, width: u32, height: u32) -> Option<[Point2<f64>; 4]> {
        let (right, bottom) = (f64::from(width) - 1.0, f64::from(height) - 1.0);
        Some([
            self.project(Point2::new(0.0, 0.0))?,
            self.project(Point2::new(right, 0.0))?,
            self.project(Point2::new(right, bottom))?,
            self.project(Point2::new(0.0, bottom))?,
        ])
    }

    /// Whether a camera could produce this map of a flat product image: not mirrored, not folded over the horizon, and not
    /// stretched, shrunk or squeezed beyond the limits.
    pub fn is_plausible(&self, width: u32, height: u32) -> bool {
        let (right, bottom) = (f64::from(width) - 1.0, f64::from(height) - 1.0);
        [(0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom), (right / 2.0, bottom / 2.0)]
            .into_iter()
            .all(|(x, y)| self.is_plausible_at(Point2::new(x, y)))
    }

    fn is_plausible_at(&self, point: Point2<f64>) -> bool {
        let Some(at) = self.project(point) else { return false };
        let h = &self.0;
        let w = h[(2, 0)] * point.x + h[(2, 1)] * point.y + h[(2, 2)];
        // The derivative of the map at the point.
        let (a, b) = ((h[(0, 0)] - at.x * h[(2, 0)]) / w, (h[(0, 1)] - at.x * h[(2, 1)]) / w);
        let (c, d) = ((h[(1, 0)] - at.y * h[(2, 0)]) / w, (h[(1, 1)] - at.y * h[(2, 1)]) / w);
        // The singular values of a 2×2 matrix in closed form; a negative determinant means a mirrored map.
        let (determinant, squares) = (a * d - b * c, a * a + b * b + c * c + d * d);
        let root = (squares * squares - 4.0 * determinant * determinant).max(0.0).sqrt();
        let (long, short) = (((squares + root) / 2.0).sqrt(), ((squares - root) / 2.0).max(0.0).sqrt());
        determinant > 0.0 && long < STRETCH_MAX && short > 1.0 / STRETCH_MAX && long < SKEW_MAX * short
    }
}

/// Whether the four points are distinct and not collinear on both sides, and have the same orientation: only then an
/// unmirrored map through them exists.
fn spread_alike(pairs: [&Correspondence; 4]) -> bool {
    let turn = |a: Point2<f64>, b: Point2<f64>, c: Point2<f64>| (b - a).perp(&(c - a));
    [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]].into_iter().all(|[i, j, k]| {
        let product = turn(pairs[i].product, pairs[j].product, pairs[k].product);
        let frame = turn(pairs[i].frame, pairs[j].frame, pairs[k].frame);
        let area_min = APART_MIN * APART_MIN;
        product.abs() > area_min && frame.abs() > area_min && (product > 0.0) == (frame > 0.0)
    })
}

/// Moves the centre of the points to the origin and scales their mean distance to √2; without it, the normal equations
/// lose precision. None if all points are equal.
fn normalisation(points: impl Iterator<Item = Point2<f64>> + Clone) -> Option<Matrix3<f64>> {
    let count = points.clone().count() as f64;
    let centre = points.clone().fold(SVector::<f64, 2>::zeros(), |sum, p| sum + p.coords) / count;
    let mean = points.map(|p| (p.coords - centre).norm()).sum::<f64>() / count;
    let scale = std::f64::consts::SQRT_2 / mean;
    scale
        .is_finite()
        .then(|| Matrix3::new(scale, 0.0, -scale * centre.x, 0.0, scale, -scale * centre.y, 0.0, 0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(product: (f64, f64), frame: Point2<f64>) -> Correspondence {
        Correspondence { product: Point2::new(product.0, product.1), frame, distance: 0 }
    }

    fn matrix(values: [f64; 9]) -> Homography {
        Homography::from_matrix(Matrix3::from_row_slice(&values)).unwrap()
    }

    proptest! {
        #[test]
        fn fit_recovers_the_original_map(
            angle in -3.1_f64..3.1, scale in 0.2_f64..3.0, x in -200.0_f64..400.0, y in -200.0_f64..400.0,
            tilt_x in -5e-4_f64..5e-4, tilt_y in -5e-4_f64..5e-4,
        ) {
            let (sin, cos) = (scale * angle.sin(), scale * angle.cos());
            let truth = matrix([cos, -sin, x, sin, cos, y, tilt_x, tilt_y, 1.0]);
            // Far from the origin even a small tilt can mirror: such maps are refused, not recovered.
            prop_assume!(truth.is_plausible(281, 201));
            let grid = (0..25).map(|i| (f64::from(i % 5) * 70.0, f64::from(i / 5) * 50.0));
            let pairs: Vec<_> =
                grid.map(|(u, v)| pair((u, v), truth.project(Point2::new(u, v)).unwrap())).collect();
            let fitted = Homography::fit(&pairs, 0.0).unwrap();
            for pair in &pairs {
                prop_assert!(fitted.error(pair) < 1e-6, "off by {}", fitted.error(pair));
            }
            let four = [&pairs[0], &pairs[4], &pairs[20], &pairs[24]];
            let exact = Homography::through_four(four).unwrap();
            prop_assert!(pairs.iter().all(|pair| exact.error(pair) < 1e-6));
        }
    }

    #[test]
    fn mirrored_product_is_refused() {
        assert!(!matrix([-1.0, 0.0, 300.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]).is_plausible(200, 100));
        let corners = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0), (100.0, 100.0)];
        let mirrored = corners.map(|(x, y)| pair((x, y), Point2::new(300.0 - x, y)));
        assert_eq!(Homography::through_four([&mirrored[0], &mirrored[1], &mirrored[2], &mirrored[3]]), None);
    }

    #[test]
    fn extremely_shrunk_or_squeezed_product_is_refused() {
        assert!(!matrix([0.05, 0.0, 300.0, 0.0, 0.05, 0.0, 0.0, 0.0, 1.0]).is_plausible(200, 100));
        assert!(!matrix([1.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0]).is_plausible(200, 100));
    }

    #[test]
    fn product_folded_over_the_horizon_is_refused() {
        assert!(!matrix([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -0.01, 0.0, 1.0]).is_plausible(200, 100));
    }

    #[test]
    fn rotated_and_tilted_product_is_plausible() {
        assert!(matrix([0.4, -0.4, 100.0, 0.4, 0.4, 20.0, 1e-4, -2e-4, 1.0]).is_plausible(400, 300));
    }

    #[test]
    fn collinear_points_give_no_map() {
        let line = [0.0, 30.0, 60.0, 90.0].map(|x| pair((x, x), Point2::new(x, 10.0)));
        assert_eq!(Homography::through_four([&line[0], &line[1], &line[2], &line[3]]), None);
    }
}
