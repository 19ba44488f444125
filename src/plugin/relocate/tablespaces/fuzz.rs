//! .isl files of any content.

use arbitrary::{Result, Unstructured};

use super::*;
use crate::fuzz;

/// Real paths of sources, and their images.
const PARTS: [(&str, &str, Members); 3] = [
    ("/nowhere/data", DATA_DIR_IMAGE, Members::All),
    ("/nowhere/big", "data_directory", Members::All),
    ("/nowhere/big/deep er", "data_directory.2", Members::All),
];

/// Whatever stood in it, the file is refused or leads to the image of what it led to, by a relative path.
pub fn isl(u: &mut Unstructured<'_>) -> Result<()> {
    let part = |(path, image, members): &(&str, &str, Members)| Part {
        path: path.into(),
        image: (*image).to_owned(),
        members: members.clone(),
    };
    let layout = Layout { parts: PARTS.iter().map(part).collect(), ..Layout::default() };
    let begin =
        *u.choose(&["", "/nowhere/data/", "/nowhere/big/", "../big/", "/nowhere/big/../big/d/", "../"])?;
    let mut content = [begin.as_bytes(), &fuzz::path(u)?].concat();
    content.extend(*u.choose(&[&b""[..], b"\n", b" \r\n", b"\0"])?);
    let beside = Beside {
        log: "mysql_data_dir/ib_logfile0".into(),
        names: Directories::new(),
        directories: [("/nowhere/big".into(), "tablespaces".into())].into(),
    };
    let places = [Place::Stay, Place::Home, Place::Beside(beside)];
    let place = u.choose(&places)?;
    let shown = format!("{} by {place:?}", content.escape_ascii());
    let led = layout.data_dir().join(OsStr::from_bytes(content.trim_ascii()));
    let Ok(turned) = place.turned(&layout, Path::new("d/t.isl"), &content) else {
        assert_eq!(image_of(&layout, &led), None, "{shown}");
        return Ok(());
    };
    let turned = turned.unwrap_or_else(|| content.trim_ascii().to_vec());
    let path = Path::new(OsStr::from_bytes(&turned));
    assert!(path.is_relative(), "{shown}: {}", path.display());
    let to = normal(&Path::new("/").join(DATA_DIR_IMAGE).join(path));
    let inside = to.strip_prefix("/").expect("absolute");
    let image = image_of(&layout, &led).expect("not refused");
    // What goes beside the data directory lies there by the name of its schema, and its own.
    let is_beside = matches!(place, Place::Beside(_)) && inside.starts_with("tablespaces");
    assert!(is_beside || inside == image, "{shown}: {} instead of {}", inside.display(), image.display());
    if is_beside {
        assert_eq!((inside.iter().count(), inside.file_name()), (3, normal(&led).file_name()), "{shown}");
    }
    Ok(())
}
