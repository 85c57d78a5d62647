(function () {
  var root = document.documentElement, chosen = null;
  root.classList.add("scripted");
  try { chosen = localStorage.getItem("viper-theme"); } catch (error) { /* storage is off: the system's choice counts */ }
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
})();
