//! The test images in the cluster's store.
