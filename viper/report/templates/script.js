(function () {
  var root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  var button = document.getElementById("theme-button");
  function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : system.matches; }
  function show() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Light page" : "Dark page");
  }
  button.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("viper-theme", root.dataset.theme); } catch (error) { /* not remembered then */ }
    show();
  });
  system.addEventListener("change", show);
  show();

  document.querySelectorAll("pre.command").forEach(function (block) {
    var copy = document.createElement("button");
    copy.type = "button";
    copy.className = "copy";
    copy.textContent = "Copy";
    copy.addEventListener("click", function () {
      var range = document.createRange(), selection = getSelection();
      range.selectNodeContents(block);
      selection.removeAllRanges();
      selection.addRange(range);
      // Where there is no clipboard the text is selected, ready for the keyboard.
      var done = navigator.clipboard ? navigator.clipboard.writeText(block.textContent) : Promise.reject();
      done.then(function () { copy.textContent = "Copied"; }, function () { copy.textContent = "Selected"; });
      setTimeout(function () { copy.textContent = "Copy"; }, 2000);
    });
    block.parentNode.insertBefore(copy, block);
  });

  // On paper there is nothing to unfold.
  var closed = [];
  addEventListener("beforeprint", function () {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach(function (each) { each.open = true; });
  });
  addEventListener("afterprint", function () { closed.forEach(function (each) { each.open = false; }); });
})();
