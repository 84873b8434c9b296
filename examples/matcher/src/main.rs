use matchbook_matcher::{features::Features, verdict::verdict};
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let load = |d: &str| { let mut v: Vec<_> = std::fs::read_dir(format!("{dir}/{d}")).unwrap().map(|e| e.unwrap().path()).collect(); v.sort();
      v.into_iter().map(|p| (p.file_stem().unwrap().to_str().unwrap().to_string(), Features::of(&image::open(&p).unwrap().to_luma8()))).collect::<Vec<_>>() };
    let t = std::time::Instant::now();
    let p = load("products"); let f = load("frames");
    println!("features {:?} {}", t.elapsed(), f[0].1.list.len());
    let t = std::time::Instant::now();
    for (n, a) in &p {
        let v: Vec<_> = f.iter().map(|(m, b)| verdict(a, b, &[n, m])).collect();
        let found = v.iter().filter(|v| v.found.is_some()).count();
        let mut inl: Vec<_> = v.iter().map(|v| v.inliers).collect(); inl.sort();
        println!("{n:24} feat {:5} found {found:3} checked {} inliers min {} med {} max {} corr avg {}", a.list.len(), v.iter().filter(|v| v.ransac_checked).count(), inl[0], inl[16], inl[32], v.iter().map(|v| v.correspondences).sum::<usize>()/33);
    }
    println!("pairs {:?}", t.elapsed());
}
