//! The stories of `never_twice` on the stores that need no other program: the (pretend) forge, and files.

use crate::world::World;

fn on_forge(_world: &mut World) {}

fn in_files(world: &mut World) {
    let folder = world.path(".state").display().to_string();
    world.configure("images:", &format!("state: \"file:{folder}\"\nimages:"));
    world.damage = Some(Box::new(move || {
        for file in std::fs::read_dir(format!("{folder}/demo/dev/lock")).unwrap() {
            std::fs::write(file.unwrap().path(), "{\"mark\":").unwrap();
        }
    }));
}

crate::never_twice::stories!(forge, super::on_forge);
crate::never_twice::stories!(file, super::in_files);
