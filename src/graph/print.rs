//! A printed form of the graph that is pleasant to read.
