//! The experiments of the settings.

use domain::recommend::experiment::Experiments;

/// Parses experiments that are written as JSON; a table of the settings file becomes JSON.
pub(super) fn parse(text: &str) -> Result<Experiments, String> {
    let experiments = serde_json::from_str(text)
        .map_err(|error| format!("{error}; write them as docs/experiments.md shows"))?;
    Experiments::new(experiments).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::super::tests::from_file;

    #[test]
    fn experiments_are_a_table_of_the_file_or_json() {
        let text = "[experiments.blend]\ncontext = \"feed\"\n[experiments.blend.variants.control]\n\
             [experiments.blend.variants.texts]\nweights = { long_term = 1, session = 0.5, query = 0, product = 0, collaborative = 0.25 }\n";
        let config = from_file(text, &[]).unwrap();
        let json = r#"{"blend": {"context": "feed", "variants": {"control": {}, "texts": {"weights": {"long_term": 1,
            "session": 0.5, "query": 0, "product": 0, "collaborative": 0.25}}}}}"#;
        assert!(config.experiments.is_some());
        assert_eq!(config.experiments, parse(&["--experiments", json]).unwrap().experiments);
        let refused =
            from_file("[experiments.blend]\ncontext = \"feed\"\nvariants = {a = {}}\n", &[]).unwrap_err();
        assert!(refused.contains("2 to 8 variants"), "{refused}");
        assert!(from_file("[experiments.blend]\ncontent = \"feed\"\n", &[]).unwrap_err().contains("content"));
    }
}
