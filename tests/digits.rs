//! The trained digit model on 200 test images: the same class as TensorFlow's stored answer on
//! every device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{devices, example_data};
use fuselstm::types::npz;
use fuselstm::{Model, Session, Tensor};

fn class(scores: &[f32]) -> usize {
    scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

/// Images as the model takes them, and TensorFlow's logits `[200, 10]`.
fn digits() -> (Vec<Tensor>, Tensor) {
    let data = npz::load(example_data("digits.npz")).unwrap();
    let entry = |name: &str| &data.iter().find(|(key, _)| key == name).unwrap().1;
    let images = entry("images").as_slice::<u8>().unwrap().chunks(784);
    let image = |pixels: &[u8]| pixels.iter().map(|&p| f32::from(p) / 255.0).collect::<Vec<f32>>();
    let images: Vec<Tensor> =
        images.map(|pixels| Tensor::from_vec(&[1, 28, 28], image(pixels)).unwrap()).collect();
    assert_eq!(images.len(), 200);
    (images, entry("logits").clone())
}

#[test]
fn every_image_has_the_class_that_tensorflow_gave_it() {
    let (images, stored) = digits();
    let model = Model::open(example_data("digits.tflite")).unwrap();
    for device in devices() {
        let session = Session::new(&model, device.clone()).unwrap();
        let mut stream = session.stream();
        for (number, (image, stored)) in
            images.iter().zip(stored.as_slice::<f32>().unwrap().chunks(10)).enumerate()
        {
            stream.reset();
            let outputs = stream.run(&[("INPUT", image)]).unwrap();
            let logits = outputs.get("LOGITS").unwrap().as_slice::<f32>().unwrap();
            assert_eq!(class(logits), class(stored), "image {number} on {device}");
            let worst = logits.iter().zip(stored).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The original graph, not the converted one, gave these: logits up to 15, worst
            // measured 3e-5.
            assert!(worst < 1e-4, "image {number} on {device}: logits off by {worst}");
        }
    }
}

#[test]
fn state_is_kept_unless_it_is_reset() {
    let (images, _) = digits();
    let model = Model::open(example_data("digits.tflite")).unwrap();
    for device in devices() {
        let session = Session::new(&model, device.clone()).unwrap();
        let mut stream = session.stream();
        let first = stream.run(&[("INPUT", &images[0])]).unwrap();
        let carried = stream.run(&[("INPUT", &images[0])]).unwrap();
        stream.reset();
        let again = stream.run(&[("INPUT", &images[0])]).unwrap();
        assert_eq!(first.get("LOGITS").unwrap(), again.get("LOGITS").unwrap(), "{device}");
        assert_ne!(first.get("LOGITS").unwrap(), carried.get("LOGITS").unwrap(), "{device}");
    }
}

#[test]
fn all_images_in_one_batch_are_the_images_one_by_one() {
    let (images, stored) = digits();
    let expected: Vec<usize> = stored.as_slice::<f32>().unwrap().chunks(10).map(class).collect();
    // The file was written for a batch of one.
    let model = Model::open(example_data("digits.tflite")).unwrap();
    let pixels: Vec<f32> =
        images.iter().flat_map(|image| image.as_slice::<f32>().unwrap().to_vec()).collect();
    let batch = Tensor::from_vec(&[200, 28, 28], pixels).unwrap();
    for device in devices() {
        let outputs =
            Session::new(&model, device.clone()).unwrap().run(&[("INPUT", &batch)]).unwrap();
        let logits = outputs.get("LOGITS").unwrap();
        assert_eq!(logits.shape(), [200, 10], "{device}");
        let classes: Vec<usize> = logits.as_slice::<f32>().unwrap().chunks(10).map(class).collect();
        assert_eq!(classes, expected, "{device}");
    }
}
