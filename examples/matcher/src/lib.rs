pub mod descriptor; pub mod features; pub mod homography; pub mod keypoint; pub mod matching; pub mod pyramid; pub mod ransac; pub mod splitmix; pub mod verdict;
