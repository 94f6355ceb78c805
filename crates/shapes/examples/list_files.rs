//! Lists the files of the model with their sizes in bytes.

fn main() {
    for (name, bytes) in tintype_shapes::FILES {
        println!("{:>9}  {name}", bytes.len());
    }
}
